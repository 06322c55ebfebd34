//! `shunt plugin new`: a crate that builds, tests and checks as it is.
//!
//! It depends on nothing but its own folder: the SDK and the ABI, of the version that this
//! program speaks, lie in it. So it needs no registry and no checkout of shunt, and what it was
//! written with is what the director understands.

use crate::output::write;
use clap::Args;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::{fmt, fs};

/// Path below plugins/, and contents, of every source file of the SDK and the ABI.
const SOURCES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/sources.rs"));

/// Path in the new crate, and contents. @NAME@ and the like are filled in.
const FILES: [(&str, &str); 8] = [
    ("Cargo.toml", include_str!("../template/Cargo.toml.in")),
    (".cargo/config.toml", include_str!("../template/config.toml")),
    (".gitignore", include_str!("../template/gitignore")),
    ("README.md", include_str!("../template/README.md.in")),
    ("src/lib.rs", include_str!("../template/lib.rs")),
    ("src/tests.rs", include_str!("../template/tests.rs")),
    ("sdk/Cargo.toml", include_str!("../template/sdk.toml.in")),
    ("abi/Cargo.toml", include_str!("../template/abi.toml.in")),
];

/// The most letters of a plugin's name.
const NAME_MAX: usize = 32;

/// Names that a crate cannot have beside those that it uses.
const TAKEN: [&str; 8] =
    ["alloc", "core", "proc_macro", "shunt-abi", "shunt-sdk", "shunt_abi", "shunt_sdk", "std"];

/// Words that the language keeps for itself, and so does cargo (`test` is a built-in crate).
#[rustfmt::skip]
const RESERVED: [&str; 52] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate",
    "do", "dyn", "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl",
    "in", "let", "loop", "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref",
    "return", "self", "static", "struct", "super", "test", "trait", "true", "try", "type",
    "typeof", "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
];

/// What to write, and where.
#[derive(Debug, Clone, Args)]
pub struct NewArgs {
    /// The plugin's name: lower-case letters, digits, - and _, beginning with a letter
    pub name: String,
    /// Folder to make the crate's folder in
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
}

/// Why no crate was written.
#[derive(Debug, thiserror::Error)]
pub enum NewError {
    /// The name will not do.
    #[error(
        "{name:?} cannot be a plugin's name, because {reason}: take 1 to {NAME_MAX} of a-z, 0-9, - \
         and _, beginning with a letter, as in my-scheduler"
    )]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is something already.
    #[error("{} exists already: take another name, or another folder with --dir", .0.display())]
    Exists(PathBuf),
    /// A file cannot be written. What was written before is removed.
    #[error("cannot write {}: {error}; mend that, or take another folder with --dir", .path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The next commands cannot be printed.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// Writes the crate and prints the next commands.
pub fn new_crate(arguments: &NewArgs, out: &mut impl Write) -> Result<(), NewError> {
    let name = arguments.name.as_str();
    check_name(name)?;
    let folder = match arguments.dir == Path::new(".") {
        true => PathBuf::from(name),
        false => arguments.dir.join(name),
    };
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| NewError::Write { path, error }
    };
    fs::create_dir_all(&arguments.dir).map_err(failed(&arguments.dir))?;
    fs::create_dir(&folder).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => NewError::Exists(folder.clone()),
        _ => NewError::Write { path: folder.clone(), error },
    })?;
    let files = FILES.iter().chain(SOURCES).map(|(path, text)| (folder.join(path), *text));
    for (path, text) in files {
        let written = path
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&path, fill_in(text, name)));
        if let Err(error) = written {
            // The folder is this function's own. What is left of it is named by the error.
            let _ = fs::remove_dir_all(&folder);
            return Err(failed(&path)(error));
        }
    }
    Ok(write(out, &format!("{}\n", NextCommands { folder: &folder, name }))?)
}

/// Puts the name and the versions in.
fn fill_in(text: &str, name: &str) -> String {
    text.replace("@NAME@", name)
        .replace("@FILE@", &file_name(name))
        .replace("@VERSION@", env!("CARGO_PKG_VERSION"))
        .replace("@RUST@", env!("CARGO_PKG_RUST_VERSION"))
}

/// Name of the file that the compiler makes of the crate.
fn file_name(name: &str) -> String {
    format!("{}.wasm", name.replace('-', "_"))
}

fn check_name(name: &str) -> Result<(), NewError> {
    let allowed = |letter: char| {
        letter.is_ascii_lowercase() || letter.is_ascii_digit() || matches!(letter, '-' | '_')
    };
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.chars().count() > NAME_MAX {
        "it is too long"
    } else if !name.starts_with(|first: char| first.is_ascii_lowercase()) {
        "it does not begin with a lower-case letter"
    } else if !name.chars().all(allowed) {
        "it has other letters"
    } else if RESERVED.contains(&name) {
        "Rust has that word itself"
    } else if TAKEN.contains(&name) {
        "a crate that it uses is called so"
    } else {
        return Ok(());
    };
    Err(NewError::Name { name: name.to_owned(), reason })
}

struct NextCommands<'a> {
    folder: &'a Path,
    name: &'a str,
}

impl fmt::Display for NextCommands<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NextCommands { folder, name } = self;
        let file = format!("target/wasm32-unknown-unknown/release/{}", file_name(name));
        write!(
            formatter,
            "{shown}: a plugin to begin with, in src/lib.rs. Next:\n\
             \n\
             rustup target add wasm32-unknown-unknown   # once\n\
             cd {folder}\n\
             cargo test                                 # natively\n\
             cargo build --release --target wasm32-unknown-unknown\n\
             shunt plugin check {file}\n\
             shunt plugin upload {file} --name {name}",
            shown = folder.display(),
            folder = quoted(folder),
        )
    }
}

/// The folder as a shell reads it.
fn quoted(folder: &Path) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || "/._-+@".contains(letter);
    let text = folder.display().to_string();
    match text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests;
