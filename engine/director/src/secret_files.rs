//! Files that nobody else may read: the API's token, and the private key of its certificate.

use hyper::header::{HeaderMap, HeaderValue};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use subtle::ConstantTimeEq;

/// Characters of a token. Fewer could be guessed; more do not fit a header well.
const TOKEN_MIN: usize = 16;
const TOKEN_MAX: usize = 1024;
/// Bytes of a file of secrets. A certificate's private key has up to some 3,300.
const FILE_MAX: u64 = 64 << 10;
/// Permission bits by which others could read or change a file.
const OTHERS: u32 = 0o006;

/// Why a file of secrets is of no use.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It cannot be read.
    #[error("cannot read {} ({cause}); it has to be there, and for this user to read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Others can read it.
    #[error("{} holds a secret, but any user of this machine may read or change it (mode {mode:04o}); `chmod o= {}`", path.display(), path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds no token.
    #[error("{} holds no token: it is one word of {TOKEN_MIN} to {TOKEN_MAX} printable ASCII characters, as `openssl rand -hex 32` writes", .0.display())]
    NoToken(PathBuf),
}

/// Reads a file that others must not be able to read.
pub fn read_secret(path: &Path) -> Result<Vec<u8>, SecretError> {
    let unreadable = |cause| SecretError::Unreadable { path: path.to_owned(), cause };
    let file = File::open(path).map_err(unreadable)?;
    // Of what was opened: the path may name another file by now.
    let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(SecretError::Open { path: path.to_owned(), mode });
    }
    let mut content = Vec::new();
    file.take(FILE_MAX).read_to_end(&mut content).map_err(unreadable)?;
    Ok(content)
}

/// What those who speak to the API over TCP know. It is never printed.
#[derive(Clone)]
pub struct Token(Vec<u8>);

/// Reads a token from its file, without the space around it.
pub fn read_token(path: &Path) -> Result<Token, SecretError> {
    let content = read_secret(path)?;
    let token = content.trim_ascii();
    let is_token = (TOKEN_MIN..=TOKEN_MAX).contains(&token.len())
        && token.iter().all(|byte| byte.is_ascii_graphic());
    if !is_token {
        return Err(SecretError::NoToken(path.to_owned()));
    }
    Ok(Token(token.to_vec()))
}

/// What a request says of its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It has the token.
    Right,
    /// It has another.
    Wrong,
    /// It has none.
    None,
}

impl Token {
    /// The value of the header Authorization that holds it (RFC 6750).
    pub fn authorization(&self) -> HeaderValue {
        let value = [b"Bearer ", &self.0[..]].concat();
        // Printable ASCII is what a header takes.
        HeaderValue::from_bytes(&value).unwrap_or_else(|_| HeaderValue::from_static("Bearer"))
    }

    /// Looks for the token in a request's headers. How long that takes says nothing of how much
    /// of a wrong one is right.
    pub fn claim(&self, headers: &HeaderMap) -> Claim {
        let mut values = headers.get_all(hyper::header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return Claim::None };
        let Some((scheme, token)) = value.as_bytes().split_at_checked(b"Bearer ".len()) else {
            return Claim::None;
        };
        // A scheme's case is its writer's choice (RFC 9110, 11.1).
        if !scheme.eq_ignore_ascii_case(b"Bearer ") {
            return Claim::None;
        }
        if bool::from(self.0.ct_eq(token.trim_ascii())) { Claim::Right } else { Claim::Wrong }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::AUTHORIZATION;
    use proptest::prelude::*;
    use std::fs::{Permissions, set_permissions, write};

    struct Written(PathBuf);

    impl Written {
        fn new(name: &str, content: &[u8], mode: u32) -> Written {
            let name = format!("shunt-secret-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            write(&path, content).unwrap();
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            Written(path)
        }
    }

    impl Drop for Written {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    const TOKEN: &str = "0123456789abcdef";

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_token_is_trimmed_and_known_again() {
        let file = Written::new("good", format!("\n {TOKEN}\r\n").as_bytes(), 0o640);
        let token = read_token(&file.0).unwrap();
        let mut own = HeaderMap::new();
        own.insert(AUTHORIZATION, token.authorization());
        assert_eq!(token.claim(&own), Claim::Right);
        for (values, expected) in [
            (&["bearer 0123456789abcdef"][..], Claim::Right),
            (&["BEARER  0123456789abcdef "], Claim::Right),
            (&["Bearer 0123456789abcdee"], Claim::Wrong),
            (&["Bearer 0123456789abcde"], Claim::Wrong),
            (&["Bearer 0123456789abcdef0"], Claim::Wrong),
            (&["Bearer "], Claim::Wrong),
            (&["Bearer"], Claim::None),
            (&["Basic 0123456789abcdef"], Claim::None),
            (&["0123456789abcdef"], Claim::None),
            (&["Bearer 0123456789abcdef", "Bearer x"], Claim::None),
            (&[], Claim::None),
        ] {
            assert_eq!(token.claim(&headers(values)), expected, "{values:?}");
        }
    }

    #[test]
    fn what_is_no_token_is_refused_with_the_next_step() {
        for (name, content) in [
            ("empty", &b""[..]),
            ("short", b"0123456789abcde\n"),
            ("words", b"0123456789 abcdef"),
            ("bytes", b"0123456789abcdef\xff"),
            ("long", &[b'x'; 1025]),
        ] {
            let file = Written::new(name, content, 0o600);
            let error = read_token(&file.0).err().unwrap().to_string();
            assert!(error.contains("openssl rand") && error.contains(name), "{error}");
        }
        let error = read_token(Path::new("/no/such/token")).err().unwrap().to_string();
        assert!(error.starts_with("cannot read /no/such/token"), "{error}");
    }

    #[test]
    fn a_file_that_others_may_read_or_change_is_refused() {
        for mode in [0o644, 0o604, 0o602, 0o666] {
            let file = Written::new("open", TOKEN.as_bytes(), mode);
            let error = read_token(&file.0).err().unwrap().to_string();
            assert!(
                error.contains("chmod o= ") && error.contains(&format!("{mode:04o}")),
                "{error}"
            );
            assert!(!error.contains(TOKEN), "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn no_other_token_is_right(other in "[!-~]{0,40}", at in 0..16usize, bit in 0..7u32) {
            let token = Token(TOKEN.into());
            let mut one_bit = TOKEN.as_bytes().to_vec();
            one_bit[at] ^= 1 << bit;
            for other in [other.as_bytes(), &one_bit] {
                let value = HeaderValue::from_bytes(&[b"Bearer ", other].concat());
                let Ok(value) = value else { continue };
                let headers: HeaderMap = [(AUTHORIZATION, value)].into_iter().collect();
                let right = other.trim_ascii() == TOKEN.as_bytes();
                prop_assert_eq!(token.claim(&headers) == Claim::Right, right);
            }
        }
    }
}
