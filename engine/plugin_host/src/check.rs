//! What can be said of a module without running it.

use crate::table::Layout;
use crate::{Limits, Refusal};
use shunt_abi::{VERSION_SECTION, export, import};
use std::borrow::Cow;
use std::collections::HashMap;
use wasmparser::{Encoding, ExternalKind, FuncType, MemoryType, Parser, Payload, TypeRef, ValType};

/// What the file says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The version that its author gave it.
    pub version: Option<String>,
    /// Names of the functions that it imports.
    pub imports: Vec<&'static str>,
    /// Bytes of its largest function.
    pub largest_function: usize,
    /// Whether it has an export `shunt_update`.
    pub has_update: bool,
    /// Whether it has an export `shunt_configure`.
    pub has_configure: bool,
    /// Whether it has an export `shunt_save`.
    pub has_save: bool,
    /// Whether it has an export `shunt_restore`.
    pub has_restore: bool,
}

impl Facts {
    /// Whether the module exports what its table promises.
    pub fn check_against(&self, layout: &Layout) -> Result<(), Refusal> {
        if layout.params().is_some() && !self.has_configure {
            let (name, expected) = (export::CONFIGURE, CONFIGURE.text);
            return Err(Refusal::MissingExport { name, expected });
        }
        Ok(())
    }
}

const MEMORY: &str = "the 32-bit memory";
const ABI_VERSION: Signature =
    Signature { params: &[], results: &[ValType::I32], text: "() -> i32" };
const INIT: Signature = Signature {
    params: &[ValType::I32, ValType::I32, ValType::I64],
    results: &[ValType::I32],
    text: "(i32, i32, i64) -> i32",
};
const SCHEDULE: Signature = ABI_VERSION;
const UPDATE: Signature = Signature { params: &[], results: &[], text: "() -> ()" };
const CONFIGURE: Signature =
    Signature { params: &[ValType::I32], results: &[ValType::I32], text: "(i32) -> i32" };
const SAVE: Signature = ABI_VERSION;
const RESTORE: Signature = CONFIGURE;

/// What a plugin may import.
const IMPORTS: [(&str, Signature); 3] = [
    (import::LOG, Signature { params: &[ValType::I32; 2], results: &[], text: "(i32, i32) -> ()" }),
    (import::NOW_MS, Signature { params: &[], results: &[ValType::I64], text: "() -> i64" }),
    (import::RANDOM, Signature { params: &[], results: &[ValType::I64], text: "() -> i64" }),
];

struct Signature {
    params: &'static [ValType],
    results: &'static [ValType],
    text: &'static str,
}

impl Signature {
    fn is(&self, found: &FuncType) -> bool {
        found.params() == self.params && found.results() == self.results
    }
}

/// An import of a module.
struct Import {
    module: String,
    name: String,
    kind: TypeRef,
}

/// What the sections hold, as far as the contract is about it.
#[derive(Default)]
struct Module {
    types: Vec<FuncType>,
    /// Index into `types`, by function, those that are imported first.
    functions: Vec<u32>,
    exports: HashMap<String, (ExternalKind, u32)>,
    memories: Vec<MemoryType>,
    table_elements: u64,
    largest_function: usize,
    imports: Vec<Import>,
    version: Option<Vec<u8>>,
}

/// Checks the file against the contract, as far as that is possible without running it. Whether
/// its code is valid, the compiler finds out.
pub(crate) fn check(wasm: &[u8], limits: &Limits) -> Result<Facts, Refusal> {
    check_header(wasm)?;
    let module = read(wasm)?;
    let imports = module.imports.iter().map(|import| check_import(&module, import));
    let imports = imports.collect::<Result<_, _>>()?;
    check_memory(&module, limits)?;
    if module.table_elements > limits.table_elements as u64 {
        let limit = limits.table_elements;
        return Err(Refusal::TableTooLarge { declared: module.table_elements, limit });
    }
    check_function(&module, export::ABI_VERSION, &ABI_VERSION)?;
    check_function(&module, export::INIT, &INIT)?;
    check_function(&module, export::SCHEDULE, &SCHEDULE)?;
    Ok(Facts {
        imports,
        largest_function: module.largest_function,
        has_update: check_optional(&module, export::UPDATE, &UPDATE)?,
        has_configure: check_optional(&module, export::CONFIGURE, &CONFIGURE)?,
        has_save: check_optional(&module, export::SAVE, &SAVE)?,
        has_restore: check_optional(&module, export::RESTORE, &RESTORE)?,
        version: module.version.map(version).transpose()?,
    })
}

/// Whether a function is exported that need not be.
fn check_optional(
    module: &Module,
    name: &'static str,
    expected: &Signature,
) -> Result<bool, Refusal> {
    let has = module.exports.contains_key(name);
    if has {
        check_function(module, name, expected)?;
    }
    Ok(has)
}

/// The first eight bytes: `\0asm`, the version (1 for modules), the layer (0 for modules, 1 for
/// components).
fn check_header(wasm: &[u8]) -> Result<(), Refusal> {
    if Parser::is_core_wasm(wasm) {
        return Ok(());
    }
    if Parser::is_component(wasm) {
        return Err(Refusal::Component);
    }
    Err(Refusal::NotWasm)
}

/// The module that the bytes of a file hold: WebAssembly text (.wat) is translated, anything else
/// stays as it is, whatever it is.
pub fn wasm_of(file: &[u8]) -> Result<Cow<'_, [u8]>, Refusal> {
    let text = std::str::from_utf8(file).unwrap_or_default().trim_start_matches('\u{feff}');
    if !["(", ";;"].iter().any(|token| text.trim_start().starts_with(token)) {
        return Ok(Cow::Borrowed(file));
    }
    wat::parse_str(text).map(Cow::Owned).map_err(|error| Refusal::Text { reason: summary(&error) })
}

/// What a mistake in a text is, and on which line: the error itself is a picture of several lines.
fn summary(error: &wat::Error) -> String {
    let picture = error.to_string();
    let mut lines = picture.lines().map(str::trim);
    let what = lines.next().unwrap_or_default().to_owned();
    match lines.next().and_then(|place| place.rsplit_once("<anon>:")) {
        Some((_, place)) => format!("at {place}: {what}"),
        None => what,
    }
}

fn read(wasm: &[u8]) -> Result<Module, Refusal> {
    let mut module = Module::default();
    for payload in Parser::new(0).parse_all(wasm) {
        payload
            .and_then(|payload| module.take(payload))
            .map_err(|error| Refusal::Malformed { reason: error.to_string() })?;
    }
    Ok(module)
}

impl Module {
    fn take(&mut self, payload: Payload<'_>) -> Result<(), wasmparser::BinaryReaderError> {
        match payload {
            Payload::Version { encoding, .. } => debug_assert_eq!(encoding, Encoding::Module),
            Payload::TypeSection(types) => {
                for function in types.into_iter_err_on_gc_types() {
                    self.types.push(function?);
                }
            }
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    let wasmparser::Import { module, name, ty: kind } = import?;
                    if let TypeRef::Func(signature) | TypeRef::FuncExact(signature) = kind {
                        self.functions.push(signature);
                    }
                    let (module, name) = (module.to_owned(), name.to_owned());
                    self.imports.push(Import { module, name, kind });
                }
            }
            Payload::FunctionSection(functions) => {
                for index in functions {
                    self.functions.push(index?);
                }
            }
            Payload::TableSection(tables) => {
                for table in tables {
                    self.table_elements = self.table_elements.saturating_add(table?.ty.initial);
                }
            }
            Payload::MemorySection(memories) => {
                for memory in memories {
                    self.memories.push(memory?);
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export?;
                    self.exports.insert(export.name.to_owned(), (export.kind, export.index));
                }
            }
            Payload::CodeSectionEntry(body) => {
                self.largest_function = self.largest_function.max(body.range().len());
            }
            Payload::CustomSection(section) if section.name() == VERSION_SECTION => {
                self.version = Some(section.data().to_owned());
            }
            _ => {}
        }
        Ok(())
    }

    fn signature(&self, function: u32) -> Option<&FuncType> {
        self.types.get(*self.functions.get(function as usize)? as usize)
    }
}

fn check_memory(module: &Module, limits: &Limits) -> Result<(), Refusal> {
    for memory in &module.memories {
        if memory.memory64 {
            return Err(Refusal::Memory64);
        }
        if memory.shared {
            return Err(Refusal::SharedMemory);
        }
        let page = 1u64 << memory.page_size_log2.unwrap_or(16).min(16);
        let declared = memory.initial.saturating_mul(page);
        if declared > limits.memory as u64 {
            return Err(Refusal::MemoryTooLarge { declared, limit: limits.memory });
        }
    }
    match module.exports.get(export::MEMORY) {
        Some((ExternalKind::Memory, _)) => Ok(()),
        Some((kind, _)) => Err(Refusal::WrongExport {
            name: export::MEMORY,
            expected: MEMORY,
            found: describe(*kind),
        }),
        None => Err(Refusal::MissingExport { name: export::MEMORY, expected: MEMORY }),
    }
}

fn check_function(
    module: &Module,
    name: &'static str,
    expected: &Signature,
) -> Result<(), Refusal> {
    let found = match module.exports.get(name) {
        None => return Err(Refusal::MissingExport { name, expected: expected.text }),
        Some(&(ExternalKind::Func | ExternalKind::FuncExact, index)) => {
            match module.signature(index) {
                Some(found) if expected.is(found) => return Ok(()),
                Some(found) => found.to_string(),
                None => "a function without a signature".to_owned(),
            }
        }
        Some(&(kind, _)) => describe(kind),
    };
    Err(Refusal::WrongExport { name, expected: expected.text, found })
}

/// The name of an import that there is and that has the right type.
fn check_import(module: &Module, import: &Import) -> Result<&'static str, Refusal> {
    let known = IMPORTS.iter().find(|(name, _)| *name == import.name);
    let (name, expected) = match known {
        Some(known) if import.module == import::MODULE => known,
        _ => {
            let Import { module, name, .. } = import;
            return Err(Refusal::Import { module: module.clone(), name: name.clone() });
        }
    };
    let found = match import.kind {
        TypeRef::Func(signature) | TypeRef::FuncExact(signature) => {
            match module.types.get(signature as usize) {
                Some(found) if expected.is(found) => return Ok(name),
                Some(found) => found.to_string(),
                None => "a function without a signature".to_owned(),
            }
        }
        TypeRef::Table(_) => describe(ExternalKind::Table),
        TypeRef::Memory(_) => describe(ExternalKind::Memory),
        TypeRef::Global(_) => describe(ExternalKind::Global),
        TypeRef::Tag(_) => describe(ExternalKind::Tag),
    };
    Err(Refusal::WrongImport { name, expected: expected.text, found })
}

fn describe(kind: ExternalKind) -> String {
    match kind {
        ExternalKind::Func | ExternalKind::FuncExact => "a function",
        ExternalKind::Table => "a table",
        ExternalKind::Memory => "a memory",
        ExternalKind::Global => "a global",
        ExternalKind::Tag => "a tag",
    }
    .to_owned()
}

fn version(section: Vec<u8>) -> Result<String, Refusal> {
    let printable = section.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
    match String::from_utf8(section) {
        Ok(version) if printable && (1..=64).contains(&version.len()) => Ok(version),
        _ => Err(Refusal::VersionSection),
    }
}
