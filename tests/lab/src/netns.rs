use crate::cleanup::{self, Guard};
use crate::command::{ip, run};
use crate::error::{Doing, Error, Result};
use crate::process::Process;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use std::fs::{self, File};
use std::panic::resume_unwind;
use std::path::Path;
use std::process::{self, Command};
use std::{io, thread};

/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";
/// What our names, and those of our temporary directories, begin with; the id of the process
/// that made them follows.
const PREFIX: &str = "shunt-";

/// Whether the caller may make network namespaces; if not, one clear sentence. `what` is who
/// needs it, `command_line` what to repeat as root.
pub fn require_root(what: &str, command_line: &str) -> Result<()> {
    if geteuid().is_root() {
        return Ok(());
    }
    Err(Error::NotRoot { what: what.to_owned(), command_line: command_line.to_owned() })
}

/// A network namespace that `ip netns` knows too. It is removed, with everything that runs in
/// it, by `Drop`, or when a signal ends the process.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
    _guard: Guard,
}

impl Netns {
    /// Makes the namespace `shunt-PID-PURPOSE`, with its loopback interface up.
    pub fn create(purpose: &str) -> Result<Netns> {
        let name = own_name(purpose);
        let to_remove = name.clone();
        let ((), guard) = cleanup::make(
            move || remove(&to_remove),
            || ip(&format!("netns add {name}")).map(drop),
        )?;
        let path = Path::new(NAMES).join(&name);
        let file = File::open(&path).doing(|| format!("opening {}", path.display()))?;
        let netns = Netns { name, file, _guard: guard };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// The name by which `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `task` on a thread inside the namespace. Sockets that it makes stay in the namespace
    /// wherever they are used.
    pub fn run<T: Send>(&self, task: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET)
                    .doing(|| format!("entering the namespace {}", self.name))?;
                Ok(task())
            });
            inside.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// `program` inside the namespace: a command to be completed and run or started. It sees the
    /// namespace's own interfaces under /sys.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Starts `program` with `arguments` in the background.
    pub fn start(
        &self,
        program: impl AsRef<std::ffi::OsStr>,
        arguments: &[&str],
    ) -> Result<Process> {
        let mut command = self.command(program);
        command.args(arguments);
        Process::start(command)
    }

    /// Runs the words as a command to its end and returns its standard output.
    pub fn exec(&self, words: &str) -> Result<String> {
        let mut words = words.split_whitespace();
        run(self.command(words.next().unwrap_or_default()).args(words))
    }

    /// `ip` with these words, inside the namespace.
    pub fn ip(&self, words: &str) -> Result<String> {
        run(Command::new("ip").args(["-n", &self.name]).args(words.split_whitespace()))
    }

    /// Sets a sysctl of the namespace, named as sysctl(8) does: `net.ipv4.ip_forward`. An
    /// interface name with a dot is written with a slash in its place.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = sysctl_path(name);
        // /proc/sys/net shows the namespace of the thread that looks.
        self.run(|| fs::write(&path, value))?
            .doing(|| format!("writing {value} to {path} in the namespace {}", self.name))
    }

    /// The value of a sysctl of the namespace.
    pub fn read_sysctl(&self, name: &str) -> Result<String> {
        let path = sysctl_path(name);
        let value = self
            .run(|| fs::read_to_string(&path))?
            .doing(|| format!("reading {path} in the namespace {}", self.name))?;
        Ok(value.trim().to_owned())
    }

    /// Writes to a file under the namespace's own /sys.
    pub fn write_sys(&self, path: &str, value: &str) -> Result<()> {
        let script = r#"printf %s "$1" > "$2""#;
        run(self.command("sh").args(["-c", script, "sh", value, path])).map(drop)
    }
}

fn sysctl_path(name: &str) -> String {
    let swapped: String = name
        .chars()
        .map(|letter| match letter {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect();
    format!("/proc/sys/{swapped}")
}

/// A name for something outside the process: unique to it, and recognisable as a leftover.
pub(crate) fn own_name(purpose: &str) -> String {
    format!("{PREFIX}{}-{purpose}", process::id())
}

/// Removes what processes that are gone have left: those that were killed could not clean up.
pub fn sweep_leftovers() -> Result<()> {
    for name in leftovers(Path::new(NAMES))? {
        remove(&name);
    }
    let temporary = std::env::temp_dir();
    for name in leftovers(&temporary)? {
        let path = temporary.join(name);
        fs::remove_dir_all(&path).doing(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}

/// The names in a directory that belong to processes that are gone.
fn leftovers(directory: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        error => error.doing(|| format!("reading {}", directory.display()))?,
    };
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| maker(name).is_some_and(is_gone))
        .collect())
}

/// The id of the process that made the thing of this name, if it is one of ours.
fn maker(name: &str) -> Option<i32> {
    let (pid, _purpose) = name.strip_prefix(PREFIX)?.split_once('-')?;
    pid.parse().ok().filter(|&pid| pid > 0)
}

fn is_gone(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None) == Err(nix::errno::Errno::ESRCH)
}

/// Kills what runs in a namespace and removes it. Nothing can be done about a failure here: the
/// next start sweeps again.
fn remove(name: &str) {
    let Ok(pids) = ip(&format!("netns pids {name}")) else { return };
    for pid in pids.lines().filter_map(|line| line.trim().parse::<i32>().ok()) {
        if pid != process::id().cast_signed() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    let _ = ip(&format!("netns del {name}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MachineLock;
    use crate::wait::wait_until;
    use std::time::Duration;

    fn names() -> String {
        ip("netns list").unwrap()
    }

    #[test]
    fn a_namespace_has_its_own_sysctls_and_goes_with_its_value() {
        let _lock = MachineLock::acquire().unwrap();
        let netns = Netns::create("lab-a").unwrap();
        let other = Netns::create("lab-b").unwrap();
        netns.sysctl("net.ipv4.ip_forward", "1").unwrap();
        other.sysctl("net.ipv4.ip_forward", "0").unwrap();
        assert_eq!(netns.read_sysctl("net.ipv4.ip_forward").unwrap(), "1");
        assert_eq!(other.read_sysctl("net.ipv4.ip_forward").unwrap(), "0");
        assert!(netns.exec("ip link show lo").unwrap().contains("LOOPBACK,UP"));
        let name = netns.name().to_owned();
        assert!(names().contains(&name));
        drop(netns);
        assert!(!names().contains(&name));
    }

    #[test]
    fn what_runs_inside_ends_with_the_namespace() {
        let _lock = MachineLock::acquire().unwrap();
        let netns = Netns::create("lab-c").unwrap();
        // A grandchild that has left the process that was started.
        let shell = netns.start("sh", &["-c", "sleep 1000 & echo $!"]).unwrap();
        shell.wait(Duration::from_secs(10)).unwrap();
        let patience = Duration::from_secs(10);
        wait_until(patience, "the pid", || shell.output().ends_with('\n')).unwrap();
        let grandchild: i32 = shell.output().trim().parse().unwrap();
        assert!(!is_gone(grandchild));
        drop(netns);
        wait_until(patience, "the grandchild is gone", || {
            is_gone(grandchild) || is_zombie(grandchild)
        })
        .unwrap();
    }

    fn is_zombie(pid: i32) -> bool {
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
    }

    #[test]
    fn the_dead_are_swept_and_the_living_are_not() {
        let _lock = MachineLock::acquire().unwrap();
        let mut dead = Command::new("true").spawn().unwrap();
        let leftover = format!("{PREFIX}{}-left", dead.id());
        dead.wait().unwrap();
        ip(&format!("netns add {leftover}")).unwrap();
        let temporary = std::env::temp_dir().join(&leftover);
        fs::create_dir(&temporary).unwrap();
        let living = Netns::create("lab-d").unwrap();
        sweep_leftovers().unwrap();
        assert!(!names().contains(&leftover) && !temporary.exists());
        assert!(names().contains(living.name()));
    }

    #[test]
    fn only_our_own_names_are_taken_for_ours() {
        assert_eq!(maker("shunt-123-director"), Some(123));
        for name in ["shunt-director", "shunt-0-x", "other-123-x", "shunt--5-x", "shunt-123"] {
            assert_eq!(maker(name), None, "{name}");
        }
    }

    #[test]
    fn a_failure_inside_names_the_command() {
        let _lock = MachineLock::acquire().unwrap();
        let netns = Netns::create("lab-e").unwrap();
        let error = netns.ip("link set nosuch up").unwrap_err().to_string();
        assert!(error.contains("link set nosuch up") && error.contains("nosuch"), "{error}");
    }
}
