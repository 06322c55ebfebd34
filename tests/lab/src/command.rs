use crate::error::{Error, Result};
use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

/// The command line as one would type it.
pub fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| quote(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

fn quote(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:=@%+,".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Runs a command to its end and returns what it wrote to standard output. An exit status other
/// than 0 is an error that carries its standard error.
pub fn run(command: &mut Command) -> Result<String> {
    finish(command, None)
}

/// Like [`run`], with `input` as the command's standard input.
pub fn run_with_input(command: &mut Command, input: &str) -> Result<String> {
    finish(command, Some(input))
}

/// `ip` with these words.
pub(crate) fn ip(words: &str) -> Result<String> {
    run(Command::new("ip").args(words.split_whitespace()))
}

fn finish(command: &mut Command, input: Option<&str>) -> Result<String> {
    let line = line(command);
    let output = execute(command, input).map_err(|source| {
        if command.get_program() == "ip" && source.kind() == io::ErrorKind::NotFound {
            Error::NoIproute2
        } else {
            Error::Start { command: line.clone(), source }
        }
    })?;
    if !output.status.success() {
        return Err(Error::Command {
            command: line,
            status: output.status.to_string(),
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn execute(command: &mut Command, input: Option<&str>) -> io::Result<Output> {
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        // A command that does not read it all says itself what is wrong.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let error = run(Command::new("sh").args(["-c", "echo it broke >&2; exit 3"])).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("sh -c") && message.contains("it broke"), "{message}");
        assert!(message.contains('3'), "{message}");
    }

    #[test]
    fn a_command_that_does_not_exist_is_named() {
        let error = run(&mut Command::new("no-such-command-here")).unwrap_err();
        assert!(error.to_string().contains("no-such-command-here"), "{error}");
    }

    #[test]
    fn a_command_line_can_be_typed_again() {
        let mut command = Command::new("printf");
        command.args(["%s|%s|%s", "two words", "it's", ""]);
        let typed = run(Command::new("sh").args(["-c", &line(&command)])).unwrap();
        assert_eq!(typed, "two words|it's|");
    }

    #[test]
    fn input_is_passed_on() {
        assert_eq!(run_with_input(&mut Command::new("cat"), "word").unwrap(), "word");
    }
}
