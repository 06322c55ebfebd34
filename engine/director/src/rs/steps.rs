//! What is changed on a machine, one step after the other; a step that fails takes back those
//! before it.

use crate::rs::facts::Setting;
use std::fmt;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Text.
    Text(String),
    /// A symbolic link to this place.
    Link(PathBuf),
}

/// A change that can be taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A setting gets another value.
    Sysctl {
        /// Which.
        setting: Setting,
        /// Its value before.
        from: i32,
        /// Its value after.
        to: i32,
    },
    /// A VIP is added or removed.
    Address {
        /// The VIP.
        address: IpAddr,
        /// The interface's index.
        link: u32,
        /// The interface's name.
        interface: String,
        /// Whether it is there afterwards.
        present: bool,
    },
    /// A file is written, replaced or removed.
    File {
        /// Where.
        path: PathBuf,
        /// What it was before; nothing if it was not there.
        from: Option<Content>,
        /// What it is after; nothing if it is removed.
        to: Option<Content>,
    },
}

impl Step {
    /// The step that takes this one back.
    pub fn reversed(&self) -> Step {
        match self.clone() {
            Step::Sysctl { setting, from, to } => Step::Sysctl { setting, from: to, to: from },
            Step::Address { address, link, interface, present } => {
                Step::Address { address, link, interface, present: !present }
            }
            Step::File { path, from, to } => Step::File { path, from: to, to: from },
        }
    }
}

/// What it does, as in "cannot …".
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Sysctl { setting, to, .. } => write!(f, "set {setting} to {to}"),
            Step::Address { address, interface, present: true, .. } => {
                write!(f, "add {address} to {interface}")
            }
            Step::Address { address, interface, present: false, .. } => {
                write!(f, "remove {address} from {interface}")
            }
            Step::File { path, to: Some(_), .. } => write!(f, "write {}", path.display()),
            Step::File { path, to: None, .. } => write!(f, "remove {}", path.display()),
        }
    }
}

/// Who takes the steps.
pub trait Machine {
    /// Takes one step, or changes nothing and says why.
    fn take(&mut self, step: &Step) -> impl Future<Output = Result<(), String>>;
}

/// Takes all steps. If one fails, those before it are taken back, and the error says so.
pub async fn take_all(machine: &mut impl Machine, steps: &[Step]) -> Result<(), String> {
    for (number, step) in steps.iter().enumerate() {
        let Err(reason) = machine.take(step).await else { continue };
        let mut stuck = Vec::new();
        for taken in steps[..number].iter().rev() {
            let back = taken.reversed();
            if let Err(reason) = machine.take(&back).await {
                stuck.push(format!("; cannot {back} either: {reason}"));
            }
        }
        let outcome = match (number, stuck.is_empty()) {
            (0, _) => "; nothing was changed",
            (_, true) => "; what had been changed before was put back",
            (_, false) => "; not all that had been changed before could be put back",
        };
        return Err(format!("cannot {step}: {reason}{outcome}{}", stuck.concat()));
    }
    Ok(())
}

/// This machine.
pub struct ThisMachine {
    /// The kernel's routing socket.
    pub handle: rtnetlink::Handle,
}

impl Machine for ThisMachine {
    async fn take(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Sysctl { setting, to, .. } => {
                fs::write(setting.path(), to.to_string()).map_err(|error| error.to_string())
            }
            Step::Address { address, link, present: true, .. } => {
                crate::addresses::add(&self.handle, *link, *address).await
            }
            Step::Address { address, link, present: false, .. } => {
                crate::addresses::remove(&self.handle, *link, *address).await
            }
            Step::File { path, to: Some(content), .. } => {
                replace(path, content).map_err(|error| error.to_string())
            }
            Step::File { path, to: None, .. } => {
                fs::remove_file(path).map_err(|error| error.to_string())
            }
        }
    }
}

/// What a file is, if it is there.
pub fn read_content(path: &Path) -> io::Result<Option<Content>> {
    let content = match fs::symlink_metadata(path) {
        Ok(facts) if facts.is_symlink() => Content::Link(fs::read_link(path)?),
        Ok(_) => Content::Text(fs::read_to_string(path)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(content))
}

/// Puts a file in place at once: whoever reads it sees the former or the new one, never a part.
fn replace(path: &Path, content: &Content) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = folder.join(format!(".{name}.new"));
    // Left by one that was killed at this very point.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = match content {
        Content::Text(text) => write_through(&beside, text),
        Content::Link(to) => symlink(to, &beside),
    };
    let placed = written.and_then(|()| fs::rename(&beside, path));
    if placed.is_err() {
        let _ = fs::remove_file(&beside);
    }
    placed
}

/// So that a machine that loses its power has the former file or the new one, not an empty one.
fn write_through(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rs::facts::{ALL, Key};

    /// Takes steps until the one with this number, and none that is forbidden.
    #[derive(Default)]
    struct Paper {
        taken: Vec<Step>,
        fails: Vec<Step>,
    }

    impl Machine for Paper {
        async fn take(&mut self, step: &Step) -> Result<(), String> {
            if self.fails.contains(step) {
                return Err("no space left".to_owned());
            }
            // What is taken back leaves no trace.
            match self.taken.last() {
                Some(last) if *step == last.reversed() => drop(self.taken.pop()),
                _ => self.taken.push(step.clone()),
            }
            Ok(())
        }
    }

    fn steps() -> Vec<Step> {
        let text = |text: &str| Some(Content::Text(text.to_owned()));
        vec![
            Step::File { path: "/run/r".into(), from: None, to: text("{}") },
            Step::Sysctl { setting: Setting::new(ALL, Key::ArpIgnore), from: 0, to: 1 },
            Step::Address {
                address: [172, 17, 100, 100].into(),
                link: 1,
                interface: "lo".into(),
                present: true,
            },
            Step::File { path: "/etc/a".into(), from: text("before"), to: text("after") },
            Step::File { path: "/etc/b".into(), from: text("before"), to: None },
        ]
    }

    fn run(machine: &mut Paper) -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(take_all(machine, &steps()))
    }

    #[test]
    fn whichever_step_fails_those_before_it_are_taken_back() {
        let mut machine = Paper::default();
        assert_eq!(run(&mut machine), Ok(()));
        assert_eq!(machine.taken, steps());
        for (number, step) in steps().into_iter().enumerate() {
            let mut machine = Paper { fails: vec![step.clone()], ..Paper::default() };
            let error = run(&mut machine).unwrap_err();
            assert_eq!(machine.taken, [], "step {number}: {error}");
            assert!(error.starts_with(&format!("cannot {step}: no space left; ")), "{error}");
            let expected = if number == 0 { "nothing was changed" } else { "was put back" };
            assert!(error.ends_with(expected), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_put_back_is_named() {
        let fails = vec![steps()[3].clone(), steps()[1].reversed()];
        let mut machine = Paper { fails, ..Paper::default() };
        let error = run(&mut machine).unwrap_err();
        assert_eq!(
            error,
            "cannot write /etc/a: no space left; not all that had been changed before could be \
             put back; cannot set net.ipv4.conf.all.arp_ignore to 0 either: no space left"
        );
    }

    #[test]
    fn a_file_is_replaced_at_once_and_its_folder_made() {
        let files = lab::TempDir::create("rs-files").unwrap();
        let path = files.path().join("a/b/c");
        assert_eq!(read_content(&path).unwrap(), None);
        for content in [
            Content::Text("one\n".into()),
            Content::Link("../one".into()),
            Content::Text("two\n".into()),
        ] {
            replace(&path, &content).unwrap();
            assert_eq!(read_content(&path).unwrap(), Some(content));
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        // A folder is in the way, and stays as it is.
        let folder = path.parent().unwrap();
        assert!(replace(folder, &Content::Text("three".into())).is_err());
        assert_eq!(fs::read_dir(folder.parent().unwrap()).unwrap().count(), 1);
    }
}
