//! The rules of the house that a program can check: sizes, words, where `unsafe` may be, and which
//! way the arrows between the crates point.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

const LINES_IN_FILE_MAX: usize = 600;
const LINES_IN_FUNCTION_MAX: usize = 70;

/// Words that stand for something the glossary has a better word for (README, Words).
const FOREIGN_WORDS: [&str; 13] = [
    "backend", "backends", "batch", "chunk", "helper", "helpers", "manager", "node", "nodes",
    "pool", "session", "sessions", "utils",
];

/// Where `unsafe` may be, and why.
const UNSAFE_ALLOWED: [(&str, &str); 3] = [
    ("engine/xsk/", "rings and frames that are shared with the kernel"),
    ("plugins/sdk/", "the exports of a plugin"),
    ("tests/lab/", "an ioctl that no crate wraps"),
];

/// The crates that each crate may depend on. Arrows point one way.
const ARROWS: [(&str, &[&str]); 7] = [
    ("engine/xsk", &[]),
    ("engine/dataplane", &["xsk"]),
    ("engine/plugin_host", &["dataplane", "shunt-abi"]),
    ("engine/workbench", &["plugin_host", "dataplane"]),
    ("plugins/abi", &[]),
    ("plugins/sdk", &["shunt-abi"]),
    ("plugins/rr", &["shunt-sdk"]),
];

/// What the packet path must not know.
const NOT_IN_DATAPLANE: [&str; 6] = ["tokio", "serde", "wasmtime", "log", "tracing", "metrics"];

fn root() -> PathBuf {
    let lab = Path::new(env!("CARGO_MANIFEST_DIR"));
    lab.ancestors().nth(2).expect("tests/lab is two below the root").to_path_buf()
}

/// All files of the project with one of these endings, relative to its root.
fn files(endings: &[&str]) -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a folder entry").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() {
                if !["target", ".git", "node_modules"].contains(&name) {
                    folders.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let relative = path.strip_prefix(&root).expect("below the root");
                let text = fs::read_to_string(&path).expect("a text file");
                found.push((relative.display().to_string(), text));
            }
        }
    }
    assert!(!found.is_empty(), "no file ends in {endings:?}: the walk is broken");
    found
}

fn sources() -> Vec<(String, syn::File)> {
    files(&[".rs"])
        .into_iter()
        .map(|(path, text)| {
            let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
            (path, file)
        })
        .collect()
}

fn assert_none(findings: &[String], rule: &str) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}

#[test]
fn files_fit_in_the_head() {
    let long: Vec<String> = files(&[".rs", ".c"])
        .iter()
        .filter(|(_, text)| text.lines().count() > LINES_IN_FILE_MAX)
        .map(|(path, text)| format!("{path}: {} lines", text.lines().count()))
        .collect();
    assert_none(&long, &format!("files over {LINES_IN_FILE_MAX} lines"));
}

struct Functions {
    path: String,
    long: Vec<String>,
}

impl Functions {
    fn measure(&mut self, name: &syn::Ident, span: proc_macro2::Span) {
        let lines = span.end().line + 1 - span.start().line;
        if lines > LINES_IN_FUNCTION_MAX {
            self.long.push(format!("{}: {name} has {lines} lines", self.path));
        }
    }
}

impl<'a> Visit<'a> for Functions {
    fn visit_item_fn(&mut self, item: &'a syn::ItemFn) {
        self.measure(&item.sig.ident, item.sig.span().join(item.block.span()).expect("one file"));
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
        self.measure(&item.sig.ident, item.sig.span().join(item.block.span()).expect("one file"));
        visit::visit_impl_item_fn(self, item);
    }
}

#[test]
fn functions_fit_on_a_screen() {
    let mut long = Vec::new();
    for (path, file) in sources() {
        let mut functions = Functions { path, long: Vec::new() };
        functions.visit_file(&file);
        long.append(&mut functions.long);
    }
    assert_none(&long, &format!("functions over {LINES_IN_FUNCTION_MAX} lines"));
}

/// Splits an identifier or a sentence into lower-case words.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for letter in text.chars() {
        if !letter.is_ascii_alphabetic() || letter.is_ascii_uppercase() {
            words.push(String::new());
        }
        if letter.is_ascii_alphabetic() {
            words.last_mut().expect("never empty").push(letter.to_ascii_lowercase());
        }
    }
    words
}

fn foreign(text: &str) -> Option<String> {
    words(text).into_iter().find(|word| FOREIGN_WORDS.contains(&word.as_str()))
}

/// Names that the project gives, and the documentation it writes.
struct Names {
    path: String,
    found: Vec<String>,
}

impl Names {
    fn check(&mut self, name: &syn::Ident) {
        if let Some(word) = foreign(&name.to_string()) {
            self.found.push(format!("{}: `{name}` has the word {word}", self.path));
        }
    }
}

macro_rules! check_names {
    ($($visit:ident $item:ident,)*) => {$(
        fn $visit(&mut self, item: &'a syn::$item) {
            self.check(&item.ident);
            visit::$visit(self, item);
        }
    )*};
}

impl<'a> Visit<'a> for Names {
    check_names! {
        visit_item_struct ItemStruct,
        visit_item_enum ItemEnum,
        visit_item_trait ItemTrait,
        visit_item_const ItemConst,
        visit_item_static ItemStatic,
        visit_item_type ItemType,
        visit_item_mod ItemMod,
        visit_variant Variant,
        visit_signature Signature,
        visit_pat_ident PatIdent,
    }

    fn visit_field(&mut self, field: &'a syn::Field) {
        if let Some(name) = &field.ident {
            self.check(name);
        }
        visit::visit_field(self, field);
    }
}

/// The words of a line of prose, without what it quotes in backticks.
fn prose(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

#[test]
fn the_words_are_those_of_the_glossary() {
    let mut found = Vec::new();
    for (path, file) in sources() {
        let mut names = Names { path, found: Vec::new() };
        names.visit_file(&file);
        found.append(&mut names.found);
    }
    for (path, text) in files(&[".rs", ".md", ".toml", ".c"]) {
        if path.ends_with("tidy.rs") || path == "Cargo.lock" {
            continue;
        }
        for (number, line) in (1..).zip(text.lines()) {
            let comment = match path.ends_with(".rs") || path.ends_with(".c") {
                true => line.split_once("//").map(|(_, comment)| comment),
                false => Some(line),
            };
            if let Some(word) = comment.and_then(|comment| foreign(&prose(comment))) {
                found.push(format!("{path}:{number} has the word {word}"));
            }
        }
    }
    assert_none(&found, "words that the glossary replaces");
}

struct Unsafe(usize);

impl<'a> Visit<'a> for Unsafe {
    fn visit_expr_unsafe(&mut self, expression: &'a syn::ExprUnsafe) {
        self.0 += 1;
        visit::visit_expr_unsafe(self, expression);
    }

    fn visit_item_impl(&mut self, item: &'a syn::ItemImpl) {
        self.0 += usize::from(item.unsafety.is_some());
        visit::visit_item_impl(self, item);
    }

    fn visit_signature(&mut self, signature: &'a syn::Signature) {
        self.0 += usize::from(signature.unsafety.is_some());
        visit::visit_signature(self, signature);
    }
}

#[test]
fn unsafe_stays_where_it_is_argued_for() {
    let mut elsewhere = Vec::new();
    let mut somewhere = BTreeSet::new();
    for (path, file) in sources() {
        let mut count = Unsafe(0);
        count.visit_file(&file);
        match UNSAFE_ALLOWED.iter().find(|(folder, _)| path.starts_with(folder)) {
            Some((folder, _)) if count.0 > 0 => {
                somewhere.insert(*folder);
            }
            None if count.0 > 0 && !path.contains("tests") => elsewhere.push(path),
            _ => {}
        }
    }
    assert_none(&elsewhere, "unsafe outside of the places that may have it");
    assert!(somewhere.contains("engine/xsk/"), "the search for unsafe finds none: it is broken");
    let dataplane = fs::read_to_string(root().join("engine/dataplane/src/lib.rs"));
    assert!(dataplane.expect("the dataplane").contains("#![forbid(unsafe_code)]"));
}

/// The names under `[dependencies]` of a crate.
fn dependencies(folder: &str) -> BTreeSet<String> {
    let path = root().join(folder).join("Cargo.toml");
    let manifest = fs::read_to_string(&path).expect("a manifest");
    let section = manifest.split("\n[").find_map(|part| part.strip_prefix("dependencies]"));
    section
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split(['.', '=', ' ']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn arrows_point_one_way() {
    let ours = [
        "xsk",
        "dataplane",
        "plugin_host",
        "workbench",
        "director",
        "shunt-abi",
        "shunt-sdk",
        "lab",
    ];
    for (folder, allowed) in ARROWS {
        for dependency in dependencies(folder) {
            let fine = !ours.contains(&dependency.as_str()) || allowed.contains(&&*dependency);
            assert!(fine, "{folder} must not depend on {dependency}");
        }
    }
    let dataplane = dependencies("engine/dataplane");
    assert!(dataplane.contains("xsk"), "the manifest is not read: the check is broken");
    for crate_name in NOT_IN_DATAPLANE {
        assert!(!dataplane.contains(crate_name), "the dataplane must not know {crate_name}");
    }
}

#[test]
fn nothing_is_left_for_later() {
    let markers = ["TODO", "FIXME", "XXX", "todo!(", "unimplemented!(", "dbg!("];
    let mut found = Vec::new();
    for (path, text) in files(&[".rs", ".c", ".sh", ".toml", ".md"]) {
        if path.ends_with("tidy.rs") || path == "Cargo.lock" {
            continue;
        }
        for (number, line) in (1..).zip(text.lines()) {
            if markers.iter().any(|marker| line.contains(marker)) {
                found.push(format!("{path}:{number}: {}", line.trim()));
            }
        }
    }
    assert_none(&found, "unfinished work");
}
