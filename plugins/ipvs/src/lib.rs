//! What several of IPVS's schedulers have in common: how they hash an address, the order in which
//! they hand places out, and the table of destinations that they remember.
//!
//! A library of the stock plugins `sh`, `dh`, `lblc` and `lblcr`, not a plugin itself.

#![cfg_attr(target_arch = "wasm32", no_std)]

mod address;
mod load;
mod members;
mod places;
mod recent;

pub use address::{fold, hash_32, is_nobody};
pub use load::{is_overloaded, load};
pub use members::{Gone, Members};
pub use places::{PLACES, Places};
pub use recent::{
    CHECK_INTERVAL, EXPIRATION, FULL_CHECK_EVERY, GRACE, RECENT_MAX, RECENT_ROOM, ROWS, Recent,
    expiration,
};
