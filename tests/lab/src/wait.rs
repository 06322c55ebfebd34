use crate::error::{Error, Result};
use std::thread;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Looks at `condition` until it gives something, at most for `patience`; `until` says for what,
/// as in "the RS answers".
pub fn wait_for<T>(
    patience: Duration,
    until: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = condition() {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            return Err(Error::Timeout { waited: patience, until: until.to_owned() });
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// Like [`wait_for`], for a condition that is true or false.
pub fn wait_until(
    patience: Duration,
    until: &str,
    mut condition: impl FnMut() -> bool,
) -> Result<()> {
    wait_for(patience, until, || condition().then_some(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_is_looked_at_until_it_holds() {
        let mut looks = 0;
        wait_until(Duration::from_secs(5), "the third look", || {
            looks += 1;
            looks == 3
        })
        .unwrap();
        assert_eq!(looks, 3);
    }

    #[test]
    fn waiting_in_vain_names_what_was_awaited() {
        let error = wait_until(Duration::from_millis(20), "pigs fly", || false).unwrap_err();
        assert!(error.to_string().contains("pigs fly"), "{error}");
    }
}
