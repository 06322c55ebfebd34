use crate::command::run;
use crate::error::{Doing, Result};
use crate::netns::Netns;
use crate::process::Process;
use crate::temp_dir::TempDir;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders of which a machine has its own, empty at first.
const OWN: [&str; 5] = ["/etc/shunt", "/etc/sysctl.d", "/etc/systemd", "/run", "/var/lib/shunt"];
/// Folders that hold some of those, and show the host's for the rest.
const SHARED: [&str; 2] = ["/etc", "/var/lib"];
/// Where the host's stay reachable, beside a machine's own.
const HOST: &str = "host";

/// In a mount namespace of its own, which `ip netns exec` has made: what is mounted here is gone
/// with the command, and nobody else sees it.
const MOUNT: &str = r#"
own=$1; shift
mount --bind /etc "$own/host/etc" && mount --bind "$own/etc" /etc &&
mount --bind /var/lib "$own/host/var/lib" && mount --bind "$own/var/lib" /var/lib &&
mount --bind "$own/run" /run || exit 126
exec "$@"
"#;

/// The files of one machine: its own /etc/shunt, /etc/sysctl.d, /etc/systemd, /run and
/// /var/lib/shunt, which all commands of that machine share and nobody else sees. All else is the
/// host's. A network namespace makes a machine of its own as far as the network goes; with these
/// files beside it, a command that writes configuration can run as it is typed, too. Removed with
/// its value. Needs the command `mount` of util-linux.
#[derive(Debug)]
pub struct OwnFiles {
    directory: TempDir,
}

impl OwnFiles {
    /// Makes them. `purpose` becomes part of the folder's name.
    pub fn create(purpose: &str) -> Result<OwnFiles> {
        let files = OwnFiles { directory: TempDir::create(purpose)? };
        for folder in OWN {
            make_folder(&files.path(folder))?;
        }
        for folder in SHARED {
            make_folder(&files.host(folder))?;
            files.show_the_hosts(folder)?;
        }
        Ok(files)
    }

    /// Where the test finds what the machine has under `path`, which is absolute and in one of the
    /// folders of its own.
    pub fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path.trim_start_matches('/'))
    }

    /// `program` inside `netns`, with these files: a command to be completed and run or started.
    pub fn command(&self, netns: &Netns, program: impl AsRef<OsStr>) -> Command {
        let mut command = netns.command("sh");
        command.args(["-c", MOUNT, "sh"]).arg(self.directory.path()).arg(program);
        command
    }

    /// Runs the words as a command to its end and returns its standard output.
    pub fn exec(&self, netns: &Netns, words: &str) -> Result<String> {
        let mut words = words.split_whitespace();
        run(self.command(netns, words.next().unwrap_or_default()).args(words))
    }

    /// Starts `program` with `arguments` in the background.
    pub fn start(
        &self,
        netns: &Netns,
        program: impl AsRef<OsStr>,
        arguments: &[&str],
    ) -> Result<Process> {
        let mut command = self.command(netns, program);
        command.args(arguments);
        Process::start(command)
    }

    fn host(&self, folder: &str) -> PathBuf {
        self.directory.path().join(HOST).join(folder.trim_start_matches('/'))
    }

    /// Links everything that the host has in `folder`, and the machine has not, to the host's.
    fn show_the_hosts(&self, folder: &str) -> Result<()> {
        let reading = || format!("reading {folder}");
        for entry in fs::read_dir(folder).doing(reading)? {
            let entry = entry.doing(reading)?;
            let here = self.path(folder).join(entry.file_name());
            if here.exists() {
                continue;
            }
            // A link's own target may be relative to the folder, so it is copied as it is.
            let target = fs::read_link(entry.path())
                .unwrap_or_else(|_| self.host(folder).join(entry.file_name()));
            symlink(&target, &here).doing(|| format!("linking {}", here.display()))?;
        }
        Ok(())
    }
}

fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).doing(|| format!("making the directory {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MachineLock;

    #[test]
    fn what_a_machine_writes_it_finds_again_and_nobody_else_sees() {
        let _lock = MachineLock::acquire().unwrap();
        let netns = Netns::create("lab-own").unwrap();
        let files = OwnFiles::create("lab-own-files").unwrap();
        let name = format!("lab-{}.conf", std::process::id());
        for folder in OWN {
            let file = format!("{folder}/{name}");
            let script = format!("ls -A {folder} && echo mine > {file}");
            let mut command = files.command(&netns, "sh");
            assert_eq!(run(command.args(["-c", &script])).unwrap(), "", "{folder} is empty");
            assert_eq!(files.exec(&netns, &format!("cat {file}")).unwrap(), "mine\n");
            assert_eq!(fs::read_to_string(files.path(&file)).unwrap(), "mine\n");
            assert!(!Path::new(&file).exists(), "{file} is on the host");
            assert!(netns.exec(&format!("cat {file}")).is_err(), "{file} is seen without");
        }
    }

    #[test]
    fn all_else_is_the_hosts() {
        let _lock = MachineLock::acquire().unwrap();
        let netns = Netns::create("lab-shared").unwrap();
        let files = OwnFiles::create("lab-shared-files").unwrap();
        for file in ["/etc/passwd", "/etc/os-release"] {
            let seen = files.exec(&netns, &format!("cat {file}")).unwrap();
            assert_eq!(seen, fs::read_to_string(file).unwrap(), "{file}");
        }
        assert!(files.exec(&netns, "ip link show lo").unwrap().contains("LOOPBACK,UP"));
        assert!(files.exec(&netns, "false").is_err());
    }
}
