// ABI version 1 of shunt's scheduler plugins. plugins/ABI.md says what all of this means.
//
// Build with `--runtime stub --use abort=`: then the module imports only what it uses of the three
// functions below. Make no objects, strings or arrays: with that runtime nothing is ever freed, and
// the memory does not grow once shunt_init has returned. Use `memory.data` for what you keep.

/** The most slots that a table may have. */
export const CAPACITY: i32 = 1024;

/** What shunt_schedule answers to decline: the flow gets the native fallback. */
export const NO_SERVER: i32 = -1;

/** The count of the change list when the connections of any server may have changed. */
export const CHANGES_ALL: u32 = u32.MAX_VALUE;

/** Room for parameters and for handed-over state, in bytes. */
export const PARAMS_CAPACITY: u32 = 1024;
export const STATE_CAPACITY: u32 = 4096;

/** What plugin and host tell each other. */
@unmanaged
export class Table {
  abiVersion: u32;
  wants: u32;
  capacity: u32;
  servers: usize;
  keys: usize;
  flow: usize;
  /** Slots in use. */
  count: i32;
  /** Grows by one with each change of the servers. */
  generation: u32;
  /** Number of the worker, from 0. */
  worker: u32;
  /** Workers that serve the virtual service. */
  workers: u32;
  params: usize;
  paramsCapacity: u32;
  state: usize;
  stateCapacity: u32;
  changes: usize;
  reserved: u32;
}

/** A real server. Its place in the array is its slot, which it keeps for as long as it exists. */
@unmanaged
export class Server {
  /** 0: takes no new flows (drained, removed, no neighbor, an empty slot). */
  weight: u32;
  /** Established TCP flows and living UDP flows, if wanted. */
  active: u32;
  /** All other flows, if wanted. */
  inactive: u32;
  reserved: u32;
  /** 16 bytes in network order, IPv4 as ::ffff:a.b.c.d, as two words. */
  addressHigh: u64;
  addressLow: u64;
}

/** The flow that shunt_schedule is asked about. Addresses are written as a server's is. */
@unmanaged
export class Flow {
  sourceHigh: u64;
  sourceLow: u64;
  destinationHigh: u64;
  destinationLow: u64;
  sourcePort: u16;
  destinationPort: u16;
  /** 6 TCP, 17 UDP. */
  protocol: u32;
}

/** The slots whose connections differ from what the last shunt_schedule was shown. */
@unmanaged
export class Changes {
  /** CHANGES_ALL: any may. */
  count: u32;
}

/** What a scheduler asks for, beside addresses and weights. Add them up. */
export const LOAD: u32 = 1;
export const KEYS: u32 = 2;
export const FLOW: u32 = 4;
export const CHANGES: u32 = 8;
export const PARAMS: u32 = 16;
export const STATE: u32 = 32;

// A compiler that lays the records out in another way stops here.
if (
  offsetof<Table>() != 64 || offsetof<Table>("reserved") != 60 ||
  offsetof<Table>("count") != 24 || offsetof<Table>("params") != 40 ||
  offsetof<Server>() != 32 || offsetof<Server>("addressHigh") != 16 ||
  offsetof<Flow>() != 40 || offsetof<Flow>("sourcePort") != 32 ||
  offsetof<Flow>("protocol") != 36 || sizeof<usize>() != 4
) {
  ERROR("the records are not laid out as ABI.md says");
}

/** The table. */
export const table = changetype<Table>(memory.data(64, 8));

const SERVERS: usize = memory.data(32 * CAPACITY, 8);
const LOAD_KEYS: usize = memory.data(8 * CAPACITY, 8);
const CHANGE_LIST: usize = memory.data(4 + 2 * CAPACITY, 8);

/** The next flow, for a scheduler that asks for FLOW. */
export const flow = changetype<Flow>(memory.data(40, 8));

/** Addresses of the parameters and of the state, for a scheduler that asks for them. */
export const params: usize = memory.data(PARAMS_CAPACITY, 8);
export const state: usize = memory.data(STATE_CAPACITY, 8);

/** The change list, for a scheduler that asks for CHANGES. */
export const changes = changetype<Changes>(CHANGE_LIST);

/** The server in a slot. */
// @ts-ignore: decorator
@inline
export function server(slot: i32): Server {
  return changetype<Server>(SERVERS + <usize>slot * 32);
}

/** The load key of a slot, for a scheduler that asks for KEYS. */
// @ts-ignore: decorator
@inline
export function key(slot: i32): f64 {
  return load<f64>(LOAD_KEYS + <usize>slot * 8);
}

/** A slot of the change list. */
// @ts-ignore: decorator
@inline
export function changed(index: i32): i32 {
  return load<u16>(CHANGE_LIST + 4 + <usize>index * 2);
}

/** Lays out the table: for shunt_init, which answers what this does. */
export function layOut(needs: u32): usize {
  table.abiVersion = 1;
  table.wants = needs & LOAD;
  table.capacity = CAPACITY;
  table.servers = SERVERS;
  table.keys = needs & KEYS ? LOAD_KEYS : 0;
  table.flow = needs & FLOW ? changetype<usize>(flow) : 0;
  table.changes = needs & CHANGES ? CHANGE_LIST : 0;
  if (needs & PARAMS) {
    table.params = params;
    table.paramsCapacity = PARAMS_CAPACITY;
  }
  if (needs & STATE) {
    table.state = state;
    table.stateCapacity = STATE_CAPACITY;
  }
  return changetype<usize>(table);
}

/** A line of UTF-8 for the director's log, at most 200 bytes; ten lines a second. */
// @ts-ignore: decorator
@external("shunt", "log")
export declare function log(address: usize, length: i32): void;

/** Milliseconds of the director's monotonic clock, as of this turn of the worker. */
// @ts-ignore: decorator
@external("shunt", "now_ms")
export declare function nowMs(): i64;

/** The next number of this instance's generator, seeded as shunt_init is told. */
// @ts-ignore: decorator
@external("shunt", "random")
export declare function random(): i64;
