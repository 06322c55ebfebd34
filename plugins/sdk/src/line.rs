//! Text without an allocator.

use core::fmt;

/// A line of at most `N` bytes, the rest of which is cut between two characters.
#[derive(Clone)]
pub struct Line<const N: usize> {
    length: usize,
    is_cut: bool,
    text: [u8; N],
}

impl<const N: usize> Line<N> {
    pub const fn new() -> Line<N> {
        Line { length: 0, is_cut: false, text: [0; N] }
    }

    /// Adds as much of `text` as fits, and nothing once something did not.
    pub fn push(&mut self, text: &str) {
        if self.is_cut {
            return;
        }
        let room = self.text.get_mut(self.length..).unwrap_or_default();
        let length = text.floor_char_boundary(room.len().min(text.len()));
        for (target, &byte) in room.iter_mut().zip(text.as_bytes()).take(length) {
            *target = byte;
        }
        self.length += length;
        self.is_cut = length < text.len();
    }

    pub fn bytes(&self) -> &[u8] {
        self.text.get(..self.length).unwrap_or_default()
    }

    pub fn text(&self) -> &str {
        // It was put together from whole characters.
        core::str::from_utf8(self.bytes()).unwrap_or_default()
    }
}

impl<const N: usize> fmt::Write for Line<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Line;

    #[test]
    fn nothing_follows_what_was_cut() {
        let mut line = Line::<5>::new();
        for part in ["", "abc", "üü", "d"] {
            line.push(part);
        }
        assert_eq!(line.text(), "abcü");
        let mut line = Line::<4>::new();
        for part in ["abc", "ü", "d"] {
            line.push(part);
        }
        assert_eq!(line.text(), "abc");
    }
}
