//! The guest's file system: a cpio archive in memory, as
//! `Documentation/driver-api/early-userspace/buffer-format.rst` has it.

use lab::{Doing, Result, run};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// stat(2)'s kinds of files, with the permissions that are wanted here.
const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

pub(crate) struct Image {
    archive: Vec<u8>,
    present: BTreeSet<String>,
}

impl Image {
    pub(crate) fn new() -> Image {
        let mut image = Image { archive: Vec::new(), present: BTreeSet::new() };
        for folder in ["bin", "dev", "proc", "run", "sys", "tmp"] {
            image.add_folder(folder);
        }
        image
    }

    /// Adds a file at an absolute path, and the folders above it.
    pub(crate) fn add(&mut self, path: &str, content: &[u8]) {
        let path = path.trim_start_matches('/');
        for (end, _) in path.match_indices('/') {
            self.add_folder(&path[..end]);
        }
        if self.present.insert(path.to_owned()) {
            self.entry(path, PROGRAM, content);
        }
    }

    /// Adds a copy of a file of this machine.
    pub(crate) fn add_copy(&mut self, from: &Path, path: &str) -> Result<()> {
        let content = fs::read(from).doing(|| format!("reading {}", from.display()))?;
        self.add(path, &content);
        Ok(())
    }

    /// Adds a program of this machine, and the libraries that it is linked with where it looks
    /// for them.
    pub(crate) fn add_program(&mut self, from: &Path, path: &str) -> Result<()> {
        self.add_copy(from, path)?;
        // A program without libraries is an error to ldd, and none here.
        for line in run(Command::new("ldd").arg(from)).unwrap_or_default().lines() {
            // "name => /path (0x...)", or "/path (0x...)" for the loader.
            if let Some(library) = line.split_whitespace().find(|word| word.starts_with('/')) {
                self.add_copy(Path::new(library), library)?;
            }
        }
        Ok(())
    }

    /// Adds the program `name` out of unpacked packages, with the libraries that came with it: the
    /// guest's others are this machine's, and those of another release might not go together.
    pub(crate) fn add_fetched(&mut self, packages: &Path, name: &str) -> Result<()> {
        let own = format!("/opt/{name}");
        let from = packages.join("sbin").join(name);
        self.add_copy(&from, &format!("{own}/{name}"))?;
        let libraries = ["lib", "usr/lib"].map(|lib| packages.join(lib).join("x86_64-linux-gnu"));
        let loader = libraries[0].join("ld-linux-x86-64.so.2");
        let folders = libraries.map(|folder| folder.display().to_string()).join(":");
        self.add_copy(&loader, &format!("{own}/loader"))?;
        let mut list = Command::new(&loader);
        list.args(["--library-path", &folders, "--list"]).arg(&from);
        for library in run(&mut list)?.lines().filter_map(|line| {
            let path = Path::new(line.split_once(" => ")?.1.split(' ').next()?);
            path.starts_with(packages).then_some(path)
        }) {
            let name = library.file_name().unwrap_or_default().display();
            self.add_copy(library, &format!("{own}/{name}"))?;
        }
        let start =
            format!("#!/bin/sh\nexec {own}/loader --library-path {own} {own}/{name} \"$@\"\n");
        self.add(&format!("/sbin/{name}"), start.as_bytes());
        Ok(())
    }

    fn add_folder(&mut self, path: &str) {
        if self.present.insert(path.to_owned()) {
            self.entry(path, FOLDER, &[]);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        // Inode, mode, owner, group, links, time, size, four device numbers, length of the name,
        // checksum.
        let inode = self.present.len() as u32;
        let (size, name) = (content.len() as u32, path.len() as u32 + 1);
        self.archive.extend(b"070701");
        for field in [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name, 0] {
            self.archive.extend(format!("{field:08x}").as_bytes());
        }
        self.archive.extend(path.as_bytes());
        self.archive.push(0);
        self.pad();
        self.archive.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.archive.resize(self.archive.len().next_multiple_of(4), 0);
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.archive
    }
}
