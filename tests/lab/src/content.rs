//! Bodies whose every byte is known from its position, so that a byte that is missing, doubled or
//! altered on its way is found.

/// A prime, so that the content does not repeat at any packet or buffer size.
const PERIOD: usize = 65_521;

/// Bytes that depend on their position alone.
#[derive(Debug, Clone)]
pub struct Content {
    /// Two periods, so that any stretch of up to one period is a slice.
    bytes: Vec<u8>,
}

impl Default for Content {
    fn default() -> Content {
        let mut state = 1u64;
        let period: Vec<u8> = (0..PERIOD)
            .map(|_| {
                // Knuth's MMIX generator; its high bits are the good ones.
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        Content { bytes: period.repeat(2) }
    }
}

impl Content {
    /// Some bytes from `offset` on, at most `length` and at least one unless `length` is 0.
    pub fn from(&self, offset: u64, length: u64) -> &[u8] {
        let start = (offset % PERIOD as u64) as usize;
        &self.bytes[start..start + length.min(PERIOD as u64) as usize]
    }

    /// The position of the first of `bytes` that is not what belongs there, counted from the
    /// beginning of the content, where `bytes` begins at `offset`.
    pub fn first_difference(&self, offset: u64, bytes: &[u8]) -> Option<u64> {
        let mut done = 0;
        while done < bytes.len() {
            let expected = self.from(offset + done as u64, (bytes.len() - done) as u64);
            let actual = &bytes[done..done + expected.len()];
            if actual != expected {
                let position = actual.iter().zip(expected).position(|(a, b)| a != b)?;
                return Some(offset + (done + position) as u64);
            }
            done += expected.len();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_a_missing_and_a_swapped_byte_are_found() {
        let content = Content::default();
        let mut whole = Vec::new();
        while whole.len() < 200_000 {
            let rest = (200_000 - whole.len()) as u64;
            whole.extend_from_slice(content.from(whole.len() as u64, rest));
        }
        assert_eq!(content.first_difference(0, &whole), None);
        assert_eq!(content.first_difference(70_000, &whole[70_000..]), None);
        let mut changed = whole.clone();
        changed[123_456] ^= 1;
        assert_eq!(content.first_difference(0, &changed), Some(123_456));
        let mut missing = whole.clone();
        missing.remove(99_999);
        assert!(content.first_difference(0, &missing).is_some_and(|at| at < 100_100));
        let mut swapped = whole;
        swapped.rotate_left(1_460);
        assert!(content.first_difference(0, &swapped).is_some());
    }
}
