//! `shunt plugin check --replay`: a call that failed on a director, called again.

use crate::check::CheckError;
use crate::named::{host, load, read};
use crate::output::write;
use plugin_host::{Dump, Error, Replay};
use serde::Serialize;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

/// No dump is larger: the memory of an instance, in base64, and little else.
const SIZE_MAX: u64 = 64 << 20;

/// Why there is nothing to call again.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The dump cannot be read.
    #[error("cannot read the dump {file}: {error}; name a file from the director's dumps folder")]
    Read {
        /// The file.
        file: String,
        /// What the system says.
        error: io::Error,
    },
    /// The file is no dump.
    #[error("{file}: {error}")]
    NoDump {
        /// The file.
        file: String,
        /// What is wrong with it.
        error: Error,
    },
}

/// What became of it.
#[derive(Debug, Serialize)]
struct Outcome<'a> {
    file: &'a str,
    dump: String,
    /// The plugin's name on the director.
    plugin: &'a str,
    function: &'a str,
    /// How the call failed there.
    failure: &'a str,
    reproduced: bool,
    /// Whether the file is the module that failed, byte by byte.
    same_module: bool,
    /// What became of the call here, as a sentence.
    found: String,
}

/// Calls again what failed, with another build of the plugin or the same. Answers whether it
/// failed as it did.
pub(crate) fn replay(
    file: &str,
    dump: &Path,
    as_json: bool,
    out: &mut impl Write,
) -> Result<bool, CheckError> {
    let host = host()?;
    let read_dump = read_dump(dump)?;
    let plugin = load(&host, file, &read(file)?)?;
    let answer: Replay = read_dump.replay(&plugin);
    let call = &read_dump.call;
    let outcome = Outcome {
        file,
        dump: dump.display().to_string(),
        plugin: &read_dump.plugin,
        function: &call.function,
        failure: call.failure.name(),
        reproduced: answer.reproduced.is_some(),
        same_module: answer.same_module,
        found: answer.to_string(),
    };
    let text = match as_json {
        true => serde_json::to_string_pretty(&outcome).map_err(io::Error::from)? + "\n",
        false => {
            let Outcome { dump, plugin, function, failure, found, .. } = &outcome;
            let trap = call.trap.as_ref().map(|trap| format!(" ({trap})")).unwrap_or_default();
            let (servers, worker) = (read_dump.servers.len(), read_dump.placement.worker);
            format!(
                "{dump}: {failure}{trap} in {function} of plugin {plugin} on worker {worker}, \
                 over {servers} slots, after {} calls\n{file}: {found}\n",
                call.calls_before
            )
        }
    };
    write(out, &text)?;
    Ok(outcome.reproduced)
}

fn read_dump(path: &Path) -> Result<Dump, ReplayError> {
    let file = path.display().to_string();
    let mut json = Vec::new();
    match File::open(path).and_then(|opened| opened.take(SIZE_MAX).read_to_end(&mut json)) {
        Err(error) => Err(ReplayError::Read { file, error }),
        Ok(_) => Dump::read(&json).map_err(|error| ReplayError::NoDump { file, error }),
    }
}
