//! Ends the programs of `command` checks with the director, however it ends.
//!
//! A director that is told to end ends them itself. Of one that is killed, systemd ends what else is
//! in its unit; whoever has started it otherwise would keep programs that run on. So a shell stands
//! by from the first check on. It is told of each process group that begins and ends, and ends those
//! that are left when the other end of its pipe is closed, which the kernel does for the dead. (The
//! kernel's own PR_SET_PDEATHSIG does not reach what a program has started itself.)

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// `groups` holds what kill(1) calls a group, each between two spaces.
const SCRIPT: &str = r#"
groups=' '
while read -r what group; do
    case $what in
        begin) groups="$groups-$group " ;;
        end) groups="${groups%% -$group *} ${groups#* -$group }" ;;
    esac
done
for group in $groups; do kill -s KILL -- "$group"; done
"#;

/// A process has one of these, as it has one end.
static WATCH: Mutex<Watch> = Mutex::new(Watch { shell: None, groups: BTreeSet::new() });

struct Watch {
    shell: Option<(Child, ChildStdin)>,
    groups: BTreeSet<i32>,
}

/// A process group that ends with this, and with the director.
pub(super) struct Group(Pid);

impl Group {
    /// Of a program that has just begun.
    pub(super) fn new(pid: u32) -> Group {
        lock().begin(pid as i32);
        Group(Pid::from_raw(pid as i32))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // If none of it runs any more, that is as well. The number is not another's by then: the
        // kernel gives numbers out in turn.
        let _ = killpg(self.0, Signal::SIGKILL);
        lock().end(self.0.as_raw());
    }
}

/// Nothing that holds this lock can panic halfway through a change.
fn lock() -> MutexGuard<'static, Watch> {
    WATCH.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    fn begin(&mut self, group: i32) {
        self.groups.insert(group);
        if self.shell.is_some() {
            self.tell(&format!("begin {group}\n"));
        }
        if self.shell.is_none() {
            // Without a shell the checks go on: they end in order, if the director does.
            self.shell = start().ok();
            let all: String = self.groups.iter().map(|group| format!("begin {group}\n")).collect();
            self.tell(&all);
        }
    }

    fn end(&mut self, group: i32) {
        self.groups.remove(&group);
        self.tell(&format!("end {group}\n"));
    }

    /// One that was killed, or stopped until its pipe is full, is replaced at the next check.
    fn tell(&mut self, lines: &str) {
        let Some((_, pipe)) = &mut self.shell else { return };
        if pipe.write_all(lines.as_bytes()).is_err()
            && let Some((mut shell, _)) = self.shell.take()
        {
            let _ = shell.kill();
            let _ = shell.wait();
        }
    }
}

fn start() -> io::Result<(Child, ChildStdin)> {
    let mut shell = Command::new("/bin/sh")
        .args(["-c", SCRIPT, "shunt-orphans"])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    let pipe = shell.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    // The control thread waits for nobody. What is written is short enough to be taken as a whole
    // or not at all (pipe(7), PIPE_BUF).
    fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((shell, pipe))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::time::{Duration, Instant};

    fn sleeper() -> Child {
        Command::new("/bin/sleep").arg("1000").process_group(0).spawn().unwrap()
    }

    fn watch(sleepers: &[&Child]) -> Watch {
        let mut watch = Watch { shell: None, groups: BTreeSet::new() };
        sleepers.iter().for_each(|sleeper| watch.begin(sleeper.id() as i32));
        watch
    }

    #[test]
    fn those_that_are_left_end_with_the_pipe_and_no_others() {
        let mut sleepers = [(); 4].map(|()| sleeper());
        let [first, second, third, other] = &mut sleepers;
        let mut watch = watch(&[first, second, third]);
        watch.end(second.id() as i32);
        // As if this process were killed.
        let (mut shell, pipe) = watch.shell.take().unwrap();
        drop(pipe);
        assert!(shell.wait().unwrap().success());
        for left in [first, third] {
            assert_eq!(left.wait().unwrap().signal(), Some(libc::SIGKILL));
        }
        for ended in [second, other] {
            assert_eq!(ended.try_wait().unwrap(), None);
            ended.kill().unwrap();
            ended.wait().unwrap();
        }
    }

    #[test]
    fn a_shell_that_is_gone_or_deaf_is_replaced_and_told_everything() {
        for signal in [Signal::SIGKILL, Signal::SIGSTOP] {
            let [mut first, mut second] = [(); 2].map(|()| sleeper());
            let mut watch = watch(&[&first]);
            let (shell, _) = watch.shell.as_ref().unwrap();
            let gone = Pid::from_raw(shell.id() as i32);
            nix::sys::signal::kill(gone, signal).unwrap();
            let deadline = Instant::now() + Duration::from_secs(20);
            while watch.shell.as_ref().is_some_and(|(shell, _)| shell.id() as i32 == gone.as_raw())
            {
                assert!(Instant::now() < deadline, "{signal}");
                watch.begin(second.id() as i32);
                watch.end(second.id() as i32);
            }
            watch.begin(second.id() as i32);
            let (mut shell, pipe) = watch.shell.take().unwrap();
            drop(pipe);
            assert!(shell.wait().unwrap().success());
            for left in [&mut first, &mut second] {
                assert_eq!(left.wait().unwrap().signal(), Some(libc::SIGKILL));
            }
        }
    }
}
