//! Signed plugins: who may say what runs here, beside who may upload it.
//!
//! The signatures are minisign's (<https://jedisct1.github.io/minisign/>). One covers the file's
//! bytes, not the name that it is uploaded under.

use minisign_verify::{Error, PublicKey, Signature};

/// The keys whose signatures count: `[plugins] signature_keys`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SignatureKeys(Vec<PublicKey>);

impl SignatureKeys {
    /// Takes keys as minisign prints them: the second line of a .pub file. None at all: files need
    /// no signature. What is no key is refused in one sentence.
    pub fn parse(keys: &[String]) -> Result<SignatureKeys, String> {
        keys.iter()
            .map(|key| {
                PublicKey::from_base64(key.trim()).map_err(|_| {
                    format!(
                        "\"{key}\" is no public key of minisign: write the line that begins with RW of the .pub file that `minisign -G` made"
                    )
                })
            })
            .collect::<Result<_, _>>()
            .map(SignatureKeys)
    }

    /// Whether files need no signature.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of the keys has signed these bytes. `signature` is the text of a .minisig file.
    /// If not, the sentence says why and what to do.
    pub fn verify(&self, bytes: &[u8], signature: Option<&str>) -> Result<(), String> {
        if self.is_empty() {
            return Ok(());
        }
        let Some(text) = signature else {
            return Err("this director takes signed plugins only: sign the file with `minisign -S -m FILE` and send FILE.minisig along".into());
        };
        let signature = Signature::decode(text).map_err(|_| {
            "the signature is not what `minisign -S -m FILE` writes: send the whole of FILE.minisig, all four lines".to_owned()
        })?;
        let mut refusal = Error::UnexpectedKeyId;
        for key in &self.0 {
            match key.verify(bytes, &signature, false) {
                Ok(()) => return Ok(()),
                Err(Error::UnexpectedKeyId) => {}
                Err(error) => refusal = error,
            }
        }
        Err(match refusal {
            Error::UnexpectedKeyId => "the signature was made with another key than those in [plugins] signature_keys: sign the file with one of them, or add this one's public key to the config",
            Error::UnexpectedAlgorithm => "the signature is of minisign's old form, which is not accepted: sign the file with minisign 0.10 or later, without -l",
            _ => "the signature is not this file's: it is of another file, or one of the two was changed after signing; sign the very file that is uploaded",
        }
        .into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // Made by minisign 0.11; the secret keys are gone.
    const FILE: &[u8] = b"the bytes of a plugin";
    const KEY: &str = "RWSwnGK0hf/Yp3V23FmF+FD5nWD32hPLQK6ffPqFKqbkLTmkUvDoLR0E";
    const OTHER_KEY: &str = "RWRaM4BZIF2uQc3iWbP8u6v6BNCt/ZH4mYbDSPRKwL9/Klm/qsn/vY4y";
    const BY_KEY: &str = "untrusted comment: signature from minisign secret key
RUSwnGK0hf/Yp+8UGwLTH7j3aZjxzvHGJWXnb03JPIwQglVNs63HUnYX7uz2CRHKvsSmR/09cmf5wV6HWsQcaxDjf0NOHJTbaAQ=
trusted comment: my 1.0
A9LhUcDJHW+iFSnqsls2yuGhh2VmQRa4nUFLWirtG5kULG+QcQKUwhqxQDYQ2EfegNOJ+mUrWL+cHNqu8asDCw==
";
    const BY_OTHER_KEY: &str = "untrusted comment: signature from minisign secret key
RURaM4BZIF2uQYfEBOaKniWXNYHWb/fUrbHySq7irkDk9hbm0ZnuBVVRTGCUs4UZYMF/yIRyrNKQtxU3tWsS/TabWftxZttIswI=
trusted comment: timestamp:1795362066\tfile:my.wasm\thashed
Wo78Sxbj9WJJEzIODM+kngOF7HllyJQi1x9aHkilVvOD8m3WFEpMuLkeWXGvsBNf1EBTFZtQWmGghs6Lz7ysCA==
";
    const OLD_FORM: &str = "untrusted comment: signature from minisign secret key
RWSwnGK0hf/YpzYT9MvDiIkTJ6AL7tdksNo2lgkAHKO+vgGK5FrqN6YvSim12DZRtJ8KU9Glv4HkfevfrgLjIOxyLggqG9GMwwY=
trusted comment: timestamp:1795362066\tfile:my.wasm
LjRhI8SqUjmiesyX7bHy4noJJSqExCXeJ0FFTZN+D0TPJtADafZCDi6PAYcyqyyR62rEmsW5FOERqI65VjFZCg==
";

    fn keys(keys: &[&str]) -> SignatureKeys {
        SignatureKeys::parse(&keys.iter().map(|&key| key.to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_file_signed_by_one_of_the_keys_is_accepted() {
        assert_eq!(keys(&[KEY]).verify(FILE, Some(BY_KEY)), Ok(()));
        let both = keys(&[OTHER_KEY, &format!(" {KEY}\n")]);
        assert_eq!(both.verify(FILE, Some(BY_KEY)), Ok(()));
        assert_eq!(both.verify(FILE, Some(BY_OTHER_KEY)), Ok(()));
        let windows = BY_KEY.replace('\n', "\r\n");
        assert_eq!(both.verify(FILE, Some(&windows)), Ok(()));
    }

    #[test]
    fn without_keys_anything_is_accepted() {
        let none = keys(&[]);
        assert!(none.is_empty() && !keys(&[KEY]).is_empty());
        for signature in [None, Some("nonsense"), Some(BY_KEY)] {
            assert_eq!(none.verify(b"any file", signature), Ok(()));
        }
    }

    #[test]
    fn what_is_refused_gets_the_next_step() {
        let [first, second] = [1, 3].map(|line| BY_KEY.lines().nth(line).unwrap());
        let another_comment = BY_KEY.replace("my 1.0", "my 2.0");
        let mixed = BY_KEY.replace(second, BY_OTHER_KEY.lines().nth(3).unwrap());
        for (keys, file, signature, expected) in [
            (keys(&[KEY]), FILE, None, "send FILE.minisig along"),
            (keys(&[KEY]), FILE, Some(""), "all four lines"),
            (keys(&[KEY]), FILE, Some(first), "all four lines"),
            (keys(&[KEY]), FILE, Some(&BY_KEY[..BY_KEY.len() - 6]), "all four lines"),
            (keys(&[KEY]), FILE, Some(&KEY.repeat(3)), "all four lines"),
            (keys(&[OTHER_KEY]), FILE, Some(BY_KEY), "add this one's public key"),
            (keys(&[KEY, OTHER_KEY]), b"other bytes", Some(BY_KEY), "the very file"),
            (keys(&[OTHER_KEY, KEY]), b"", Some(BY_KEY), "the very file"),
            (keys(&[KEY]), FILE, Some(&another_comment), "the very file"),
            (keys(&[KEY]), FILE, Some(&mixed), "the very file"),
            (keys(&[KEY]), FILE, Some(OLD_FORM), "without -l"),
        ] {
            let refusal = keys.verify(file, signature).unwrap_err();
            assert!(refusal.contains(expected), "{signature:?}: {refusal}");
            assert!(!refusal.contains('\n'), "{refusal}");
        }
    }

    #[test]
    fn what_is_no_key_is_named() {
        let public = format!("untrusted comment: minisign public key\n{KEY}\n");
        for bad in ["", "RW", &KEY[1..], &KEY[..40], BY_KEY.lines().nth(1).unwrap(), &public] {
            let refusal = SignatureKeys::parse(&[KEY.into(), bad.into()]).unwrap_err();
            assert!(refusal.contains(bad) && refusal.contains("minisign -G"), "{refusal}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn one_bit_more_or_less_in_the_file_is_noticed(at in 0..FILE.len(), bit in 0..8u32) {
            let mut file = FILE.to_vec();
            file[at] ^= 1 << bit;
            prop_assert!(keys(&[KEY]).verify(&file, Some(BY_KEY)).is_err());
        }

        /// All but the untrusted comment, and bits of base64 that stand for nothing.
        #[test]
        fn one_other_letter_in_the_signature_is_noticed(at in 54..BY_KEY.len(), letter in "[A-Za-z0-9+/ ]") {
            let mut text = BY_KEY.to_owned();
            text.replace_range(at..at + 1, &letter);
            let accepted = keys(&[KEY]).verify(FILE, Some(&text)).is_ok();
            prop_assert!(!accepted || text == BY_KEY, "{}", text);
        }

        #[test]
        fn no_text_is_a_signature_or_a_panic(text in ".{0,200}", lines in prop::collection::vec("[A-Za-z0-9+/=]{86,104}", 2)) {
            let made = format!("untrusted comment: x\n{}\ntrusted comment: {text}\n{}\n", lines[0], lines[1]);
            for signature in [&text, &made] {
                prop_assert!(keys(&[KEY]).verify(FILE, Some(signature)).is_err());
            }
            let _ = SignatureKeys::parse(&[text]);
        }
    }
}
