//! A checked and compiled plugin, and instances of it.

use crate::{Error, Latency};
use std::sync::Arc;

/// A checked and compiled plugin. Cheap to clone; every clone is the same plugin.
#[derive(Clone)]
pub struct Plugin {
    facts: Arc<Facts>,
}

struct Facts {
    name: String,
    version: String,
    digest: String,
    size: usize,
    abi: u32,
    capacity: usize,
}

/// Where an instance will work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// Number of the worker, from 0.
    pub worker: u32,
    /// Workers that serve the same virtual service.
    pub workers: u32,
    /// What the plugin's random choices, if it makes any, begin with.
    pub seed: u64,
}

/// An instance, ready for a worker.
pub struct Prepared {
    /// Goes to the worker.
    pub instance: Box<dataplane::Instance>,
    /// How long its calls take; stays with the control thread.
    pub latency: Arc<Latency>,
}

impl Plugin {
    /// The name that it was loaded under.
    pub fn name(&self) -> &str {
        &self.facts.name
    }

    /// The version that its author gave it (custom section `shunt.version`), else the first 12
    /// digits of the digest.
    pub fn version(&self) -> &str {
        &self.facts.version
    }

    /// SHA-256 of the file, in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.facts.digest
    }

    /// Size of the file in bytes.
    pub fn size(&self) -> usize {
        self.facts.size
    }

    /// The version of the ABI that it follows.
    pub fn abi(&self) -> u32 {
        self.facts.abi
    }

    /// The most slots that it can choose from, at most 1024. A service with more real servers
    /// gets the native fallback for every flow.
    pub fn capacity(&self) -> usize {
        self.facts.capacity
    }

    /// Makes an instance for one virtual service on one worker. Maps memory and runs the plugin's
    /// `shunt_init`: for the control thread.
    pub fn instantiate(&self, placement: Placement) -> Result<Prepared, Error> {
        let _ = placement;
        Err(Error::UnknownStock { name: self.facts.name.clone() })
    }
}
