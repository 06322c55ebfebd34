//! The table in a plugin's linear memory.

use crate::Refusal;
use shunt_abi::{
    ABI_VERSION, CAPACITY_MAX, CHANGES_ALL, Changes, Flow, PARAMS_MAX, Server, Table, WANTS_LOAD,
};
use std::mem::{align_of, offset_of, size_of};
use std::ops::Range;

/// Where the plugin laid out its table. Read once, when `shunt_init` returns: what the plugin
/// writes there later is nobody's business but its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    table: usize,
    servers: usize,
    keys: Option<usize>,
    flow: Option<usize>,
    changes: Option<usize>,
    params: Option<Room>,
    state: Option<Room>,
    /// The most slots.
    pub capacity: usize,
    /// Whether connections are kept current.
    pub wants_load: bool,
}

/// Bytes at a place in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    at: usize,
    /// How many.
    pub capacity: usize,
}

impl Room {
    /// The first bytes, at most all of them.
    pub fn first(self, length: usize) -> Range<usize> {
        self.at..self.at + length.min(self.capacity)
    }
}

impl Layout {
    /// Reads and checks the table at `address`, whose state may have so many bytes.
    pub fn read(memory: &[u8], address: u32, state_max: usize) -> Result<Layout, Refusal> {
        let table = place(memory, "table", address, size_of::<Table>(), align_of::<Table>())?;
        let field = |offset: usize| get_u32(memory, table + offset);
        let found = field(offset_of!(Table, abi_version));
        if found != ABI_VERSION {
            return Err(Refusal::AbiVersion { found });
        }
        let wants = field(offset_of!(Table, wants));
        if wants & !WANTS_LOAD != 0 {
            return Err(Refusal::Wants { wants });
        }
        let capacity = field(offset_of!(Table, capacity));
        if !(1..=CAPACITY_MAX as u32).contains(&capacity) {
            return Err(Refusal::Capacity { capacity });
        }
        let slots = capacity as usize;
        let optional = |record, address, size, alignment| match address {
            0 => Ok(None),
            address => place(memory, record, address, size, alignment).map(Some),
        };
        let keys = field(offset_of!(Table, keys));
        let keys = optional("array of load keys", keys, slots * size_of::<f64>(), 8)?;
        let flow = field(offset_of!(Table, flow));
        let flow = optional("flow", flow, size_of::<Flow>(), align_of::<Flow>())?;
        let servers = field(offset_of!(Table, servers));
        let size = slots * size_of::<Server>();
        let servers = place(memory, "array of servers", servers, size, align_of::<Server>())?;
        let changes = field(offset_of!(Table, changes));
        let size = offset_of!(Changes, slots) + slots * size_of::<u16>();
        let changes = optional("list of changes", changes, size, align_of::<Changes>())?;
        let room = |record, address: usize, capacity: usize, limit| match field(address) {
            0 => Ok(None),
            address => room(memory, record, address, field(capacity), limit).map(Some),
        };
        let (at, capacity) = (offset_of!(Table, params), offset_of!(Table, params_capacity));
        let params = room("room for parameters", at, capacity, PARAMS_MAX)?;
        let (at, capacity) = (offset_of!(Table, state), offset_of!(Table, state_capacity));
        let state = room("room for state", at, capacity, state_max)?;
        let wants_load = wants & WANTS_LOAD != 0 || keys.is_some() || changes.is_some();
        let capacity = slots;
        Ok(Layout { table, servers, keys, flow, changes, params, state, capacity, wants_load })
    }

    /// Where parameters go.
    pub fn params(&self) -> Option<Room> {
        self.params
    }

    /// Where state is handed over.
    pub fn state(&self) -> Option<Room> {
        self.state
    }

    /// Writes the fields of the table that say where the instance works, and a table without
    /// servers: all of it, so that no page of it is touched for the first time on a worker.
    pub fn write_first(&self, memory: &mut [u8], worker: u32, workers: u32) {
        put(memory, self.table + offset_of!(Table, worker), worker.to_le_bytes());
        put(memory, self.table + offset_of!(Table, workers), workers.to_le_bytes());
        self.write_count(memory, 0, 0);
        for slot in 0..self.capacity {
            self.write_server(memory, slot, &Server::default());
        }
        if let Some(flow) = self.flow {
            put(memory, flow, [0; size_of::<Flow>()]);
        }
        for slot in 0..self.capacity {
            self.write_change(memory, slot, 0);
        }
        self.write_changes(memory, CHANGES_ALL);
    }

    /// Writes that the connections of the server in `slot` have changed, as the list's entry number
    /// `entry`.
    #[inline]
    pub fn write_change(&self, memory: &mut [u8], entry: usize, slot: u16) {
        if let Some(at) = self.changes {
            let at = at + offset_of!(Changes, slots) + entry * size_of::<u16>();
            put(memory, at, slot.to_le_bytes());
        }
    }

    /// Writes how many changes the list has.
    #[inline]
    pub fn write_changes(&self, memory: &mut [u8], count: u32) {
        if let Some(at) = self.changes {
            put(memory, at + offset_of!(Changes, count), count.to_le_bytes());
        }
    }

    /// Whether the changes are listed.
    #[inline]
    pub fn wants_changes(&self) -> bool {
        self.changes.is_some()
    }

    /// Writes how many slots are in use, and that they have changed.
    pub fn write_count(&self, memory: &mut [u8], count: u32, generation: u32) {
        put(memory, self.table + offset_of!(Table, count), count.to_le_bytes());
        put(memory, self.table + offset_of!(Table, generation), generation.to_le_bytes());
    }

    /// Writes a server's record and its load key.
    pub fn write_server(&self, memory: &mut [u8], slot: usize, server: &Server) {
        let at = self.servers + slot * size_of::<Server>();
        put(memory, at + offset_of!(Server, weight), server.weight.to_le_bytes());
        put(memory, at + offset_of!(Server, reserved), [0; 4]);
        put(memory, at + offset_of!(Server, address), server.address);
        self.write_load(memory, slot, server);
    }

    /// Writes a server's connections and its load key.
    #[inline]
    pub fn write_load(&self, memory: &mut [u8], slot: usize, server: &Server) {
        let at = self.servers + slot * size_of::<Server>();
        put(memory, at + offset_of!(Server, active), server.active.to_le_bytes());
        put(memory, at + offset_of!(Server, inactive), server.inactive.to_le_bytes());
        if let Some(keys) = self.keys {
            let at = keys + slot * size_of::<f64>();
            put(memory, at, server.load_key(slot).to_le_bytes());
        }
    }

    /// Writes the flow, if it is wanted.
    #[inline]
    pub fn write_flow(&self, memory: &mut [u8], flow: &dataplane::NewFlow) {
        let Some(at) = self.flow else { return };
        put(memory, at + offset_of!(Flow, source), flow.source);
        put(memory, at + offset_of!(Flow, destination), flow.destination);
        put(memory, at + offset_of!(Flow, source_port), flow.source_port.to_le_bytes());
        let port = flow.destination_port.to_le_bytes();
        put(memory, at + offset_of!(Flow, destination_port), port);
        put(memory, at + offset_of!(Flow, protocol), u32::from(flow.protocol).to_le_bytes());
    }

    /// Whether [`Layout::write_flow`] writes anything.
    #[inline]
    pub fn wants_flow(&self) -> bool {
        self.flow.is_some()
    }
}

/// Checks that room for bytes lies within the memory and is neither none nor too much.
fn room(
    memory: &[u8],
    record: &'static str,
    address: u32,
    capacity: u32,
    limit: usize,
) -> Result<Room, Refusal> {
    let size = capacity as usize;
    if size == 0 || size > limit {
        return Err(Refusal::Room { record, capacity, limit });
    }
    let at = place(memory, record, address, size, 1)?;
    Ok(Room { at, capacity: size })
}

/// Checks that a record lies within the memory, which never shrinks.
fn place(
    memory: &[u8],
    record: &'static str,
    address: u32,
    size: usize,
    alignment: usize,
) -> Result<usize, Refusal> {
    let at = address as usize;
    if at.checked_add(size).is_none_or(|end| end > memory.len()) {
        return Err(Refusal::OutOfBounds { record, address, memory: memory.len() });
    }
    if !at.is_multiple_of(alignment) {
        return Err(Refusal::Misaligned { record, address, alignment });
    }
    Ok(at)
}

fn get_u32(memory: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|byte| memory[at + byte]))
}

#[inline]
fn put<const N: usize>(memory: &mut [u8], at: usize, bytes: [u8; N]) {
    memory[at..at + N].copy_from_slice(&bytes);
}
