//! Text for whoever called.

use std::io::{self, Write};

/// Writes all of `text`. A reader that has seen enough (`shunt plugin check my.wasm | head`) is no
/// failure.
pub(crate) fn write(out: &mut impl Write, text: &str) -> io::Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}
