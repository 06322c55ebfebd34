//! What an author of scheduler plugins works with, offline and without root.
//!
//! ```text
//! new     a crate to begin with, which carries its own copy of the SDK
//! ```
//!
//! The program `shunt` has these as `shunt plugin new`, and so on.

#![forbid(unsafe_code)]

mod new_crate;

pub use new_crate::{NewArgs, NewError, new_crate};
