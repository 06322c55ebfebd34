use super::{IMPATIENCE, PATIENCE, ask_within, judge_within, target, until};
use crate::health::kinds::{CheckError, CheckKind, CommandCheck};
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

fn shell(script: &str) -> CheckKind {
    let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    CheckKind::Command(CommandCheck { command })
}

async fn run_within(timeout: Duration, script: &str) -> Result<(), String> {
    let server: SocketAddr = "[2001:db8::7]:8080".parse().unwrap();
    ask_within(timeout, shell(script), &target(server)).await
}

async fn run(script: &str) -> Result<(), String> {
    run_within(PATIENCE, script).await
}

/// The processes of this machine whose command line has `mark` in it, with their states as in
/// proc(5), and those of this process's children that nobody has waited for.
fn processes(mark: &str) -> Vec<(u32, char)> {
    let me = std::process::id();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let (state, parent) = (fields.next().unwrap_or("?"), fields.next().unwrap_or("0"));
        let child = state == "Z" && parent == me.to_string();
        if pid != me && (line.contains(mark) || child) {
            found.push((pid, state.chars().next().unwrap_or('?')));
        }
    }
    found
}

/// Waits until none of what `mark` names is left, and no zombie.
async fn all_gone(mark: &str) {
    until(&format!("{mark} is left"), || processes(mark).is_empty()).await;
}

#[tokio::test]
async fn the_exit_code_decides() {
    assert_eq!(run("exit 0").await, Ok(()));
    assert_eq!(run("exit 3").await, Err("run /bin/sh: exit code 3".to_owned()));
    assert_eq!(run("kill -TERM $$").await, Err("run /bin/sh: ended by SIGTERM".to_owned()));
}

#[tokio::test]
async fn the_last_line_of_the_output_is_the_error() {
    for (script, line) in [
        ("echo first; echo last; exit 1", "last"),
        ("echo out; echo err >&2; exit 1", "err"),
        ("echo err >&2; echo out; exit 1", "out"),
        ("printf 'no newline'; exit 1", "no newline"),
        (r"printf 'it is\n\n  \n'; exit 1", "it is"),
        (r"printf 'a\tb\033[31m\377'; exit 1", "a b [31m\u{fffd}"),
    ] {
        let error = run(script).await.unwrap_err();
        assert_eq!(error, format!("run /bin/sh: exit code 1: {line}"), "{script}");
    }
    let long = run("head -c 5000 /dev/zero | tr '\\0' x; exit 1").await.unwrap_err();
    assert_eq!(long.chars().count(), 201, "{long}");
}

#[tokio::test]
async fn what_it_says_does_not_matter_when_it_is_well() {
    assert_eq!(run("echo trouble >&2").await, Ok(()));
}

#[tokio::test]
async fn it_is_told_of_the_server() {
    let script = "echo $SHUNT_SERVICE $SHUNT_VIP $SHUNT_PORT $SHUNT_SERVER; exit 1";
    let told = "tcp:172.17.100.100:80 172.17.100.100 8080 2001:db8::7";
    assert_eq!(run(script).await, Err(format!("run /bin/sh: exit code 1: {told}")));
}

#[tokio::test]
async fn its_input_is_empty_and_it_inherits_no_file() {
    let error = run("cat; pwd; exit 1").await.unwrap_err();
    assert_eq!(error, "run /bin/sh: exit code 1: /");
    let handed_down = handed_down();
    let error = run("echo $(ls /proc/self/fd); exit 1").await.unwrap_err();
    let open = error.strip_prefix("run /bin/sh: exit code 1: ").unwrap().split(' ');
    let open: BTreeSet<u32> = open.map(|number| number.parse().unwrap()).collect();
    let own: BTreeSet<_> = open.difference(&handed_down).collect();
    // What `ls` lists is the one file of its own.
    assert!(own.len() <= 1, "{own:?} of {open:?}");
}

/// The numbers of the files that any program which this process starts has open, too: the first
/// three, and what this process was itself started with.
fn handed_down() -> BTreeSet<u32> {
    let mut found = BTreeSet::from([0, 1, 2]);
    for entry in fs::read_dir("/proc/self/fdinfo").unwrap().flatten() {
        let info = fs::read_to_string(entry.path()).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
        if flags.is_some_and(|flags| flags & libc::O_CLOEXEC == 0) {
            found.insert(entry.file_name().to_string_lossy().parse().unwrap());
        }
    }
    found
}

#[tokio::test]
async fn a_program_that_does_not_exist_or_may_not_run_is_named_and_says_nothing_of_the_server() {
    let folder = std::env::temp_dir().join(format!("shunt-command-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let plain = folder.join("plain");
    fs::write(&plain, "#!/bin/sh\n").unwrap();
    for (program, cause) in [
        (folder.join("none"), "there is no such file"),
        (plain, "permission denied"),
        (folder.clone(), "permission denied"),
    ] {
        let program = program.display().to_string();
        let kind = CheckKind::Command(CommandCheck { command: vec![program.clone()] });
        let server = target("127.0.0.1:80".parse().unwrap());
        let error = judge_within(PATIENCE, kind, &server).await.unwrap_err();
        assert_eq!(error, CheckError::Unable(format!("run {program}: {cause}")));
    }
    fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn megabytes_are_read_and_forgotten() {
    let begin = Instant::now();
    assert_eq!(run("head -c 20000000 /dev/zero").await, Ok(()));
    let error = run("head -c 20000000 /dev/zero | tr '\\0' '\\n'; echo end; exit 1").await;
    assert_eq!(error, Err("run /bin/sh: exit code 1: end".to_owned()));
    assert!(begin.elapsed() < PATIENCE);
}

#[tokio::test]
async fn one_that_hangs_ends_with_its_children_at_the_timeout() {
    let mark = "/shunt-test-hangs";
    let script = format!(": {mark}; sh -c ': {mark}; sleep 1000; :' & sleep 1000; :");
    let begin = Instant::now();
    let error = run_within(IMPATIENCE, &script).await.unwrap_err();
    assert_eq!(error, "run /bin/sh: not done within 1 s");
    assert!(begin.elapsed() >= IMPATIENCE);
    all_gone(mark).await;
}

#[tokio::test]
async fn one_that_takes_no_signal_ends_too_and_so_does_endless_output() {
    let mark = "/shunt-test-deaf";
    for script in ["trap '' TERM INT HUP; while :; do sleep 1000; done", "exec yes"] {
        let error = run_within(IMPATIENCE, &format!(": {mark}; {script}")).await.unwrap_err();
        assert_eq!(error, "run /bin/sh: not done within 1 s");
        all_gone(mark).await;
        all_gone("yes\0").await;
    }
}

#[tokio::test]
async fn what_it_leaves_behind_is_not_waited_for_and_ends() {
    let mark = "/shunt-test-left";
    for code in [0, 7] {
        let left = format!("sh -c ': {mark}; sleep 1000; :' & echo started; exit {code}");
        let begin = Instant::now();
        let result = run(&left).await;
        assert_eq!(result.is_ok(), code == 0);
        if let Err(error) = result {
            assert_eq!(error, "run /bin/sh: exit code 7: started");
        }
        assert!(begin.elapsed() < PATIENCE / 2, "it was waited for");
        all_gone(mark).await;
    }
}

#[tokio::test]
async fn a_check_that_is_given_up_ends_its_program() {
    let mark = "/shunt-test-given-up";
    let check = tokio::spawn(async move { run(&format!(": {mark}; sleep 1000; :")).await });
    until("it does not start", || !processes(mark).is_empty()).await;
    check.abort();
    all_gone(mark).await;
}
