//! What can go wrong on the control thread, and what to do about it.

/// Why a plugin cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine does not start with these limits.
    #[error("the WebAssembly engine does not start with these limits: {reason}")]
    Engine {
        /// What it says.
        reason: String,
    },
    /// No stock plugin has this name.
    #[error("no stock plugin is called {name:?}; there are {}", crate::STOCK.join(", "))]
    UnknownStock {
        /// The name asked for.
        name: String,
    },
    /// The plugin breaks the contract.
    #[error("plugin {plugin}: {refusal}")]
    Refused {
        /// The plugin's name.
        plugin: String,
        /// What its author has to change.
        refusal: Refusal,
    },
    /// There is no room for another instance.
    #[error(
        "plugin {plugin}: no memory for another instance ({reason}); each takes 4.1 GiB of address \
         space: raise `ulimit -v` and vm.max_map_count"
    )]
    Instantiate {
        /// The plugin's name.
        plugin: String,
        /// What the engine says.
        reason: String,
    },
}

/// How a plugin breaks the contract, in one sentence that tells its author what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {}
