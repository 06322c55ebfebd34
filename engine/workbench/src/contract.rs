//! The rules that the host checks when it loads a plugin, one by one.

use crate::report::{Outcome, Rule};
use plugin_host::{Limits, Plugin, Refusal};

/// The rules, in the order in which the host checks them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contract {
    File,
    Module,
    Imports,
    Memory,
    Exports,
    Start,
    Table,
}

impl Contract {
    const ALL: [Contract; 7] = [
        Contract::File,
        Contract::Module,
        Contract::Imports,
        Contract::Memory,
        Contract::Exports,
        Contract::Start,
        Contract::Table,
    ];

    fn name(self) -> &'static str {
        match self {
            Contract::File => "file",
            Contract::Module => "module",
            Contract::Imports => "imports",
            Contract::Memory => "memory",
            Contract::Exports => "exports",
            Contract::Start => "start",
            Contract::Table => "table",
        }
    }

    /// The rule that a refusal is about.
    fn of(refusal: &Refusal) -> Contract {
        match refusal {
            Refusal::FileTooLarge { .. } => Contract::File,
            Refusal::Import { .. } => Contract::Imports,
            Refusal::Memory64
            | Refusal::SharedMemory
            | Refusal::MemoryTooLarge { .. }
            | Refusal::TableTooLarge { .. } => Contract::Memory,
            Refusal::MissingExport { .. }
            | Refusal::WrongExport { .. }
            | Refusal::VersionSection => Contract::Exports,
            Refusal::AbiVersion { .. } | Refusal::OutOfFuel { .. } | Refusal::Trap { .. } => {
                Contract::Start
            }
            Refusal::OutOfBounds { .. }
            | Refusal::Misaligned { .. }
            | Refusal::Capacity { .. }
            | Refusal::Room { .. }
            | Refusal::Wants { .. } => Contract::Table,
            _ => Contract::Module,
        }
    }
}

/// What to say of a plugin that keeps all of them.
pub(crate) fn kept(plugin: &Plugin, limits: &Limits) -> Vec<Rule> {
    let imports = match plugin.imports() {
        [] => "none".to_owned(),
        imports => imports.join(", "),
    };
    let told = match plugin.wants_load() {
        true => "addresses, weights and connections",
        false => "addresses and weights",
    };
    let table = format!("{} slots; it is told of {told}", plugin.capacity());
    Contract::ALL
        .map(|rule| {
            let detail = match rule {
                Contract::File => {
                    format!("{} bytes, of at most {}", plugin.size(), limits.file_size)
                }
                Contract::Module => "a core module without features that are off".to_owned(),
                Contract::Imports => imports.clone(),
                Contract::Memory => {
                    format!("{} bytes, of at most {}", plugin.memory(), limits.memory)
                }
                Contract::Exports => "all there, of the right types".to_owned(),
                Contract::Start => format!("ends, and follows ABI version {}", plugin.abi()),
                Contract::Table => table.clone(),
            };
            Rule { rule: rule.name(), outcome: Outcome::Ok, detail }
        })
        .into()
}

/// What to say of a plugin that was refused. Rules behind the broken one were not tried.
pub(crate) fn broken(refusal: &Refusal) -> Vec<Rule> {
    let broken = Contract::of(refusal);
    let before = Contract::ALL.into_iter().take_while(|rule| *rule != broken);
    before
        .map(|rule| Rule { rule: rule.name(), outcome: Outcome::Ok, detail: String::new() })
        .chain([Rule {
            rule: broken.name(),
            outcome: Outcome::Failed,
            detail: refusal.to_string(),
        }])
        .collect()
}
