//! What `tests/guest/fetch` has unpacked.

use lab::{Doing, Error, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// QEMU with its libraries, busybox, and a kernel.
#[derive(Debug)]
pub(crate) struct Packages {
    qemu: PathBuf,
    kernel: PathBuf,
}

/// `tests/guest` in the project.
pub(crate) fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Packages {
    /// Fetches them if need be, which is told on standard error.
    pub(crate) fn fetch(kernel: &str) -> Result<Packages> {
        let [qemu, kernel] = fetch(kernel)?;
        Ok(Packages { qemu, kernel })
    }

    /// QEMU, by the loader that its C library came with, whatever this machine has.
    pub(crate) fn qemu(&self) -> Vec<String> {
        let at = |path: &str| self.qemu.join(path).display().to_string();
        let libraries = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"].map(at).join(":");
        vec![
            at("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"),
            "--library-path".into(),
            libraries,
            at("usr/bin/qemu-system-x86_64"),
            "-L".into(),
            at("usr/share/qemu"),
            "-L".into(),
            at("usr/share/seabios"),
        ]
    }

    /// The program that is the guest's shell and commands.
    pub(crate) fn busybox(&self) -> PathBuf {
        self.qemu.join("bin/busybox")
    }

    /// The kernel's modules, in a folder that has the version's name.
    pub(crate) fn modules(&self) -> Result<PathBuf> {
        let folders = ["usr/lib/modules", "lib/modules"].map(|folder| self.kernel.join(folder));
        let folder = folders.iter().find(|folder| folder.exists()).unwrap_or(&folders[0]);
        only_entry(folder, |_| true)
    }

    /// The kernel itself.
    pub(crate) fn kernel(&self) -> Result<PathBuf> {
        let is_kernel = |name: &str| name.starts_with("vmlinuz");
        only_entry(&self.kernel.join("boot"), is_kernel)
            .or_else(|_| only_entry(&self.modules()?, is_kernel))
    }
}

/// Fetches a program for the guest if need be; the folder that its packages are unpacked in.
pub(crate) fn fetch_program(name: &str) -> Result<PathBuf> {
    let [folder] = fetch(name)?;
    Ok(folder)
}

/// The folders that `tests/guest/fetch` names.
fn fetch<const FOLDERS: usize>(name: &str) -> Result<[PathBuf; FOLDERS]> {
    let mut command = Command::new(folder().join("fetch"));
    command.arg(name).stderr(Stdio::inherit());
    let line = lab::line(&command);
    let output =
        command.output().map_err(|source| Error::Start { command: line.clone(), source })?;
    let said = String::from_utf8_lossy(&output.stdout);
    let folders: Vec<PathBuf> = said.lines().map(PathBuf::from).collect();
    match folders.try_into() {
        Ok(folders) if output.status.success() => Ok(folders),
        _ => Err(Error::Command {
            command: line,
            status: output.status.to_string(),
            stderr: format!("{said}(see above)"),
        }),
    }
}

fn only_entry(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let doing = || format!("looking into {}", folder.display());
    fs::read_dir(folder)
        .doing(doing)?
        .filter_map(|entry| entry.ok())
        .find(|entry| entry.file_name().to_str().is_some_and(&wanted))
        .map(|entry| entry.path())
        .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound))
        .doing(doing)
}
