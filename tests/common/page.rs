//! Pages of the documentation whose commands are typed by a test, as they are written.
//!
//! What counts are the code blocks marked `console`. A line `rs1# ip route` in one is the command
//! `ip route`, typed as root on the machine `rs1`; the lines below it are what it writes. `...` stands
//! for any number of lines. A here-document goes on to its `END`. Words after `console` say more:
//! `exit=1` that the commands of the block end with that status instead of 0, `soon` that what they
//! show takes some seconds to come about.

/// A command of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Typed {
    /// Where it is typed.
    pub machine: String,
    /// As it is typed.
    pub command: String,
    /// What the page shows below it.
    pub shown: Vec<String>,
    /// Its exit status.
    pub exit: i32,
    /// Whether what it shows takes some seconds to come about.
    pub soon: bool,
    /// The page's line, from 1.
    pub line: usize,
}

/// The commands of a page for these machines.
pub fn commands(page: &str, machines: &[&str]) -> Vec<Typed> {
    let mut found: Vec<Typed> = Vec::new();
    let mut block: Option<(i32, bool)> = None;
    let mut in_document = false;
    for (line, text) in (1..).zip(page.lines()) {
        if let Some(marks) = text.strip_prefix("```") {
            block = block.is_none().then(|| marked(marks)).flatten();
            continue;
        }
        let Some((exit, soon)) = block else { continue };
        if in_document {
            let typed = found.last_mut().unwrap();
            typed.command.push_str(&format!("\n{text}"));
            in_document = text != "END";
        } else if let Some((machine, command)) = prompt(text, machines) {
            in_document = command.ends_with("<<'END'");
            let (machine, command) = (machine.to_owned(), command.to_owned());
            found.push(Typed { machine, command, shown: vec![], exit, soon, line });
        } else if let Some(typed) = found.last_mut() {
            typed.shown.push(text.to_owned());
        }
    }
    found
}

/// Exit status and patience of a block of this mark, if it holds commands.
fn marked(marks: &str) -> Option<(i32, bool)> {
    let mut words = marks.split(' ');
    let console = words.next() == Some("console");
    let (mut exit, mut soon) = (0, false);
    for word in words {
        match word.strip_prefix("exit=") {
            Some(status) => exit = status.parse().unwrap(),
            None if word == "soon" => soon = true,
            None => panic!("a block is marked {word}"),
        }
    }
    console.then_some((exit, soon))
}

fn prompt<'a>(line: &'a str, machines: &[&'a str]) -> Option<(&'a str, &'a str)> {
    let (machine, command) = line.split_once(['#', '$'])?;
    Some((machine, command.strip_prefix(' ')?)).filter(|_| machines.contains(&machine))
}

impl Typed {
    /// Whether `written` is what the page shows, but for numbers and the width of columns.
    pub fn shows(&self, written: &str) -> bool {
        let written: Vec<String> = written.lines().map(without_numbers).collect();
        let mut at = 0;
        for (turn, group) in self.shown.split(|line| line == "...").enumerate() {
            let group: Vec<String> = group.iter().map(|line| without_numbers(line)).collect();
            let places = if turn == 0 { at..at + 1 } else { at..written.len() + 1 };
            let fits = |&place: &usize| written[place..].starts_with(&group);
            let Some(place) = places.clone().find(fits) else { return false };
            at = place + group.len();
        }
        at == written.len() || self.shown.last().is_some_and(|line| line == "...")
    }
}

/// A line with N for each number, and one space for many.
fn without_numbers(line: &str) -> String {
    let mut plain = String::new();
    for letter in line.split_whitespace().collect::<Vec<_>>().join(" ").chars() {
        match letter {
            '0'..='9' if plain.ends_with('N') => {}
            '0'..='9' => plain.push('N'),
            other => plain.push(other),
        }
    }
    plain
}
