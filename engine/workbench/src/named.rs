//! Plugins by the name of a file, or by that of a stock plugin.

use plugin_host::{Error, Limits, Plugin, PluginHost, STOCK};
use std::io::{self, Read};
use std::{fs, path::Path};

/// Why there is no plugin of this name.
#[derive(Debug, thiserror::Error)]
pub enum NamedError {
    /// The file cannot be read.
    #[error(
        "cannot read {file}: {error}; give a .wasm or .wat file, or the name of a stock plugin \
         ({})",
        STOCK.join(", ")
    )]
    Read {
        /// The file.
        file: String,
        /// What the system says.
        error: io::Error,
    },
}

/// Where the bytes of a plugin are.
pub(crate) enum Source {
    /// In the program.
    Stock,
    /// Here.
    Bytes(Vec<u8>),
}

/// A host with the limits that a director has by default, ready to be asked on this thread.
pub(crate) fn host() -> Result<PluginHost, Error> {
    plugin_host::prepare_worker_thread();
    PluginHost::new(Limits::default())
}

/// Finds a plugin. A file of the name goes before a stock plugin of the name.
pub(crate) fn read(name: &str) -> Result<Source, NamedError> {
    if STOCK.contains(&name) && !Path::new(name).is_file() {
        return Ok(Source::Stock);
    }
    // One byte more than is allowed is enough to refuse it: it may be a device, or have no end.
    let most = Limits::default().file_size as u64 + 1;
    let mut bytes = Vec::new();
    fs::File::open(name)
        .and_then(|file| file.take(most).read_to_end(&mut bytes))
        .map_err(|error| NamedError::Read { file: name.to_owned(), error })?;
    Ok(Source::Bytes(bytes))
}

/// Loads it.
pub(crate) fn load(host: &PluginHost, name: &str, source: &Source) -> Result<Plugin, Error> {
    match source {
        Source::Stock => host.stock(name),
        Source::Bytes(bytes) => host.load(name, bytes),
    }
}
