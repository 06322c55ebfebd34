// Weighted round robin that is gentle with newcomers.
//
// A server that comes (new, back from weight 0, or its neighbor is found again) begins with a tenth
// of its share and has all of it after some seconds: time to fill its caches. Between servers whose
// shares are settled it is smooth weighted round robin, as nginx has it: each flow adds its share to
// every server's credit, and the server with the most credit pays for all.
//
// Parameter: seconds (1 to 86400, default 30). A later version of this plugin, or new parameters,
// take over whose turn it is and who is still on the way.
import {
  CAPACITY, NO_SERVER, PARAMS, STATE, STATE_CAPACITY,
  layOut, log, nowMs, params, server, state, table,
} from "./shunt";

/** A settled server's share, in thousandths of its weight. */
const SETTLED: i64 = 1000;
const FIRST: i64 = 100;

/** What is kept of a server, to see that another is in its slot, and where it is on its way. */
@unmanaged
class Kept {
  addressHigh: u64;
  addressLow: u64;
  /** When it came, in milliseconds; 0: settled. */
  since: i64;
  credit: i64;
  weight: u32;
  reserved: u32;
}

/** What is handed over of a server. */
@unmanaged
class Handed {
  slot: u32;
  reserved: u32;
  addressHigh: u64;
  addressLow: u64;
  since: i64;
  credit: i64;
}

const FORMAT: u32 = 1;
/** The format and the number of records. */
const HEADER: usize = 8;
/** No server gains more in a flow than this, and none has more credit than all can gain. */
const CREDIT_MAX: i64 = 65_535 * SETTLED * CAPACITY;

const KEPT: usize = memory.data(40 * CAPACITY, 8);
const LINE: usize = memory.data(128);

let rampMs: i64 = 30_000;
/** Slots below this may hold something in `Kept`. */
let known: i32 = 0;
/** Servers on their way. */
let underway: i32 = 0;

// @ts-ignore: decorator
@inline
function kept(slot: i32): Kept {
  return changetype<Kept>(KEPT + <usize>slot * offsetof<Kept>());
}

export function shunt_abi_version(): i32 {
  return 1;
}

export function shunt_init(worker: i32, workers: i32, seed: i64): usize {
  return layOut(PARAMS | STATE);
}

/** The one parameter that there is is a line `seconds=NUMBER\n`. */
export function shunt_configure(length: i32): i32 {
  const NAME = "seconds=";
  for (let at = 0; at < NAME.length; at++) {
    if (at >= length || load<u8>(params + at) != NAME.charCodeAt(at)) {
      return refuse("there is the parameter seconds, and no other");
    }
  }
  let seconds: i64 = 0;
  let at = NAME.length;
  for (; at < length && load<u8>(params + at) != 0x0a; at++) {
    const digit = <i64>load<u8>(params + at) - 0x30;
    seconds = seconds * 10 + digit;
    if (digit < 0 || digit > 9 || seconds > 86_400) {
      return refuse("seconds must be a whole number from 1 to 86400");
    }
  }
  if (at + 1 < length) return refuse("there is the parameter seconds, and no other");
  if (seconds < 1) return refuse("seconds must be a whole number from 1 to 86400");
  rampMs = seconds * 1000;
  return 0;
}

function refuse(why: string): i32 {
  return <i32>String.UTF8.encodeUnsafe(changetype<usize>(why), why.length, params);
}

export function shunt_update(): void {
  // The first time it is told who serves already: they are settled.
  const first = table.generation <= 1;
  const end = max(known, table.count);
  const now = first ? 0 : nowMs();
  let newcomers = 0;
  underway = 0;
  for (let slot = 0; slot < end; slot++) {
    const one = server(slot);
    const was = kept(slot);
    const another = one.addressHigh != was.addressHigh || one.addressLow != was.addressLow;
    if (one.weight == 0 || slot >= table.count) {
      was.credit = 0;
      was.since = 0;
    } else if (!first && (another || was.weight == 0)) {
      was.credit = 0;
      was.since = now;
      newcomers++;
    }
    was.addressHigh = one.addressHigh;
    was.addressLow = one.addressLow;
    was.weight = slot < table.count ? one.weight : 0;
    if (was.since != 0) underway++;
  }
  known = table.count;
  if (newcomers > 0) announce(newcomers);
}

/** Says in the log how many come. */
function announce(newcomers: i32): void {
  let length = 0;
  let power = 1000;
  while (newcomers < power) power /= 10;
  for (; power > 0; power /= 10) {
    store<u8>(LINE + length, <u8>(0x30 + (newcomers / power) % 10));
    length++;
  }
  const text = " new in service, with a tenth of the share at first";
  length += <i32>String.UTF8.encodeUnsafe(changetype<usize>(text), text.length, LINE + length);
  log(LINE, length);
}

/** The share of a server on its way, in thousandths of its weight. */
function share(one: Kept, now: i64): i64 {
  const elapsed = now - one.since;
  if (elapsed >= rampMs) {
    one.since = 0;
    underway--;
    return SETTLED;
  }
  return FIRST + (SETTLED - FIRST) * max(elapsed, 0) / rampMs;
}

export function shunt_schedule(): i32 {
  const count = table.count;
  const now = underway > 0 ? nowMs() : 0;
  let chosen = NO_SERVER;
  let most = i64.MIN_VALUE;
  let all: i64 = 0;
  // Of several with the same credit each worker takes another first.
  let slot = <i32>(<u64>count * table.worker / table.workers);
  for (let left = count; left > 0; left--) {
    const one = kept(slot);
    if (one.weight != 0) {
      const gain = <i64>one.weight * (one.since == 0 ? SETTLED : share(one, now));
      all += gain;
      one.credit += gain;
      if (one.credit > most) {
        most = one.credit;
        chosen = slot;
      }
    }
    if (++slot == count) slot = 0;
  }
  if (chosen != NO_SERVER) kept(chosen).credit -= all;
  return chosen;
}

export function shunt_save(): i32 {
  const room = (STATE_CAPACITY - <u32>HEADER) / <u32>offsetof<Handed>();
  // Of more servers than there is room for, only those on their way: the turn begins anew.
  const all = <u32>known <= room;
  let records: u32 = 0;
  for (let slot = 0; slot < known && records < room; slot++) {
    const one = kept(slot);
    if (one.weight == 0 || (!all && one.since == 0)) continue;
    const record = changetype<Handed>(state + HEADER + <usize>records * offsetof<Handed>());
    record.slot = slot;
    record.reserved = 0;
    record.addressHigh = one.addressHigh;
    record.addressLow = one.addressLow;
    record.since = one.since;
    record.credit = all ? one.credit : 0;
    records++;
  }
  store<u32>(state, FORMAT);
  store<u32>(state + 4, records);
  return <i32>HEADER + <i32>records * <i32>offsetof<Handed>();
}

export function shunt_restore(length: i32): i32 {
  if (length < <i32>HEADER || load<u32>(state) != FORMAT) return 1;
  const records = load<u32>(state + 4);
  if (<i64>length != <i64>HEADER + <i64>records * offsetof<Handed>()) return 1;
  const now = nowMs();
  for (let index: u32 = 0; index < records; index++) {
    const record = changetype<Handed>(state + HEADER + <usize>index * offsetof<Handed>());
    // It may be in use no more, or another: then nothing is known of it.
    if (record.slot >= <u32>known || record.since < 0 || record.since > now) continue;
    if (record.credit < -CREDIT_MAX || record.credit > CREDIT_MAX) continue;
    const one = kept(<i32>record.slot);
    const same = one.addressHigh == record.addressHigh && one.addressLow == record.addressLow;
    if (!same || one.weight == 0 || one.since != 0) continue;
    one.credit = record.credit;
    one.since = record.since;
    if (one.since != 0) underway++;
  }
  return 0;
}
