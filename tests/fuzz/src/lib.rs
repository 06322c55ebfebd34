//! Mutated packets through a director in memory.
//!
//! An input is a few packets and pauses. It is made from valid packets or from an input that once
//! showed something new, then bytes are flipped, inserted and cut, lengths lied about or repaired,
//! packets repeated and exchanged. A run is a row of lives: one worker, whose flow tables fill and
//! drain over thousands of inputs. After every packet the books must balance, and the verdict must
//! be the one that a second parser, written differently, expects.
//!
//! New is what shows a pair of packet shape and verdict, or a row of effects, that no input showed
//! before. That needs no instrumented build and no other toolchain, and the same seed finds the
//! same.

mod input;
mod judge;
mod life;
mod mutate;
mod run;
mod tally;

pub use input::{Event, Input, parse_inputs, write_inputs};
pub use judge::{Expected, judge};
pub use life::Life;
pub use run::{Report, Run, distill, features_alone, replay};
pub use tally::{Depth, Tally};
