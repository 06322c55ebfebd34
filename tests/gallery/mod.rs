//! Plugins that do what they should not, and the answer to each.
//!
//! The answers are read from plugins/ABI.md ("When a plugin fails"), so that the document and the
//! tests cannot say different things.
#![allow(dead_code)] // each test file uses some of it

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A bad plugin.
#[derive(Debug)]
pub struct Exhibit {
    /// What it is called in the document, and its file without `.wat`.
    pub name: String,
    /// The file.
    pub file: Vec<u8>,
    /// What the document promises.
    pub answer: Answer,
}

/// What is promised of a bad plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The file is refused, with this sentence.
    Refused(Sentence),
    /// All parameters are refused, with this sentence.
    RefusesParameters(Sentence),
    /// A call fails, and is counted by this reason.
    Fails {
        /// The label of the counter.
        reason: String,
        /// The export that fails.
        call: Call,
    },
    /// Its successor begins without its state.
    StartsFresh,
    /// Nothing fails.
    Works,
}

impl Answer {
    /// Whether this, which is documented, is what was given.
    pub fn allows(&self, given: &Answer) -> bool {
        match (self, given) {
            (Answer::Refused(documented), Answer::Refused(given))
            | (Answer::RefusesParameters(documented), Answer::RefusesParameters(given)) => {
                documented.is(&given.0)
            }
            _ => self == given,
        }
    }
}

/// The export whose call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Schedule,
    Update,
    Restore,
}

/// A sentence in which `…` stands for anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentence(String);

impl Sentence {
    /// Whether this is what was said.
    pub fn is(&self, said: &str) -> bool {
        match self.0.split_once('…') {
            None => said == self.0,
            Some((begins, ends)) => {
                let rest = said.strip_prefix(begins);
                rest.is_some_and(|rest| rest.ends_with(ends))
            }
        }
    }

    /// The words before the first `…`.
    pub fn beginning(&self) -> &str {
        self.0.split('…').next().expect("a split has a first part")
    }
}

impl From<String> for Sentence {
    fn from(sentence: String) -> Sentence {
        Sentence(sentence)
    }
}

fn root() -> &'static Path {
    // Of a crate in engine/, as those that have these tests are.
    let engine = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    engine.and_then(Path::parent).expect("two folders above the crate")
}

fn read(path: PathBuf) -> Vec<u8> {
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All of them. Every file has an answer and every answer has a file.
pub fn gallery() -> Vec<Exhibit> {
    let mut files = generated();
    for entry in fs::read_dir(root().join("tests/gallery")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "wat") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            files.insert(name, read(path));
        }
    }
    let answers = documented();
    let names = |map: &BTreeSet<&String>| map.iter().map(|name| name.to_string()).collect();
    let (there, promised): (BTreeSet<_>, BTreeSet<_>) =
        (files.keys().collect(), answers.keys().collect());
    let undocumented: Vec<String> = names(&(&there - &promised));
    let missing: Vec<String> = names(&(&promised - &there));
    assert!(undocumented.is_empty(), "not in plugins/ABI.md: {undocumented:?}");
    assert!(missing.is_empty(), "in plugins/ABI.md and nowhere else: {missing:?}");
    files
        .into_iter()
        .map(|(name, file)| Exhibit { answer: answers[&name].clone(), name, file })
        .collect()
}

/// The one of this name.
pub fn exhibit(name: &str) -> Exhibit {
    let mut all = gallery().into_iter();
    all.find(|exhibit| exhibit.name == name).unwrap_or_else(|| panic!("there is no {name}"))
}

/// Files that are no text, or too long to keep.
fn generated() -> BTreeMap<String, Vec<u8>> {
    let rr = read(root().join("plugins/rr/rr.wasm"));
    let mut of_50_mb = rr.clone();
    // A custom section that fills it up: id 0, a length of four bytes, an empty name.
    let filler = (50 << 20) - rr.len() - 5;
    of_50_mb.push(0);
    of_50_mb.extend((0..4).map(|septet| {
        let more = if septet < 3 { 0x80 } else { 0 };
        (filler >> (7 * septet)) as u8 & 0x7f | more
    }));
    of_50_mb.resize(50 << 20, 0);
    let files: [(&str, Vec<u8>); 5] = [
        ("component_binary", b"\0asm\x0d\0\x01\0".to_vec()),
        ("truncated", rr[..rr.len() - 1].to_vec()),
        ("of_50_mb", of_50_mb),
        ("text", b"The quick brown fox jumps over the lazy dog.\n".to_vec()),
        ("program", b"\x7fELF\x02\x01\x01\0".to_vec()),
    ];
    files.into_iter().map(|(name, file)| (name.to_owned(), file)).collect()
}

/// The rows of the document's table, by name.
fn documented() -> BTreeMap<String, Answer> {
    let document = String::from_utf8(read(root().join("plugins/ABI.md"))).unwrap();
    let (_, rest) = document.split_once("\n### The gallery\n").expect("a section on the gallery");
    let section = rest.split("\n#").next().unwrap();
    let rows = section.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let rows = rows.take_while(|line| line.starts_with('|')).map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, _, answer] = cells[..] else { panic!("not three cells: {line}") };
        (name.trim_matches('`').to_owned(), parse(answer))
    });
    rows.collect()
}

fn parse(answer: &str) -> Answer {
    if let Some(sentence) = answer.strip_prefix("refused: ") {
        return Answer::Refused(Sentence(sentence.to_owned()));
    }
    if let Some(sentence) = answer.strip_prefix("parameters refused: ") {
        return Answer::RefusesParameters(Sentence(sentence.to_owned()));
    }
    match answer {
        "its successor starts fresh" => return Answer::StartsFresh,
        "none" => return Answer::Works,
        _ => {}
    }
    // A reason, and the call where it is not `shunt_schedule`.
    let words: Vec<&str> = answer.split('`').collect();
    let call = match words[1..] {
        [_, _] => Call::Schedule,
        [_, _, "shunt_update", _] => Call::Update,
        [_, _, "shunt_restore", _] => Call::Restore,
        _ => panic!("no answer: {answer}"),
    };
    Answer::Fails { reason: words[1].to_owned(), call }
}
