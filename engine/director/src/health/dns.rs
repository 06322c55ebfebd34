//! `dns`: does the server know a name (RFC 1035)?

use super::doing::Doing;
use super::kinds::{CheckError, DnsCheck, Target};
use super::{tcp, udp};
use dataplane::Protocol;
use domain::base::iana::Rcode;
use domain::base::{Message, MessageBuilder, Name, Rtype};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::str::FromStr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes of an answer by UDP. Without EDNS it has up to 512 (RFC 1035, 4.2.1).
const DATAGRAM_MAX: usize = 4_096;

/// Asks once, over UDP or TCP.
pub(super) async fn check(
    target: &Target,
    dns: &DnsCheck,
    doing: &Doing,
) -> Result<(), CheckError> {
    let what = format!("ask {} for {} {}", target.address(), dns.name, dns.record);
    doing.now(what.clone());
    let query = query(dns).map_err(|cause| doing.unable(cause))?;
    match target.service.protocol {
        Protocol::Udp => over_udp(target, &query, doing).await,
        Protocol::Tcp => over_tcp(target, &query, what, doing).await,
    }
}

fn query(dns: &DnsCheck) -> Result<Message<Vec<u8>>, String> {
    let name = Name::<Vec<u8>>::from_str(&dns.name).map_err(|cause| cause.to_string())?;
    let record = Rtype::from_str(&dns.record).map_err(|cause| cause.to_string())?;
    let mut builder = MessageBuilder::new_vec();
    // From the keys of this hasher, which chance has chosen: nobody can guess the next number.
    builder.header_mut().set_id(RandomState::new().build_hasher().finish() as u16);
    builder.header_mut().set_rd(true);
    let mut question = builder.question();
    question.push((name, record)).map_err(|cause| cause.to_string())?;
    Ok(question.into_message())
}

async fn over_udp(
    target: &Target,
    query: &Message<Vec<u8>>,
    doing: &Doing,
) -> Result<(), CheckError> {
    let socket = udp::connect(target, doing).await?;
    socket.send(query.as_slice()).await.map_err(|error| doing.io(&error))?;
    let mut buffer = [0; DATAGRAM_MAX];
    loop {
        let length = socket.recv(&mut buffer).await.map_err(|error| doing.io(&error))?;
        // What answers another question may be late, or forged: the answer may still come.
        if let Some(rcode) = rcode(query, &buffer[..length]) {
            return judge(rcode, doing);
        }
        doing.late_says("no answer to the question asked");
    }
}

async fn over_tcp(
    target: &Target,
    query: &Message<Vec<u8>>,
    what: String,
    doing: &Doing,
) -> Result<(), CheckError> {
    let mut stream = tcp::connect(target, doing).await?;
    doing.now(what);
    // By TCP each message comes after its length (RFC 1035, 4.2.2), best in one segment
    // (RFC 7766, 8).
    let length = (query.as_slice().len() as u16).to_be_bytes();
    let framed = [&length, query.as_slice()].concat();
    stream.write_all(&framed).await.map_err(|error| doing.io(&error))?;
    let length = stream.read_u16().await.map_err(|error| doing.io(&error))?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await.map_err(|error| doing.io(&error))?;
    match rcode(query, &answer) {
        Some(rcode) => judge(rcode, doing),
        None => Err(doing.failed("the answer is not to the question asked")),
    }
}

/// How the query was answered; `None`: this is no answer to it.
fn rcode(query: &Message<Vec<u8>>, answer: &[u8]) -> Option<Rcode> {
    let answer = Message::from_slice(answer).ok()?;
    let header = answer.header();
    // A server that could not read the question, or will not answer, need not repeat it.
    let refusal = header.qr()
        && header.id() == query.header().id()
        && header.rcode() != Rcode::NOERROR
        && answer.header_counts().qdcount() == 0;
    (refusal || answer.is_answer(query)).then(|| header.rcode())
}

fn judge(rcode: Rcode, doing: &Doing) -> Result<(), CheckError> {
    match rcode {
        Rcode::NOERROR => Ok(()),
        other => Err(doing.failed(other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn no_bytes_are_too_strange(mut bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let dns = DnsCheck { name: "www.example.org".to_owned(), record: "A".to_owned() };
            let query = query(&dns).unwrap();
            let id = query.header().id().to_be_bytes();
            let _ = rcode(&query, &bytes);
            // Its number alone makes no answer of them, unless they are a refusal.
            if let Some(place) = bytes.get_mut(..2) {
                place.copy_from_slice(&id);
                prop_assert_ne!(rcode(&query, &bytes), Some(Rcode::NOERROR));
            }
            // The query with the bit that says "answer" is one, whatever follows.
            let answer = [query.as_slice(), &bytes].concat();
            prop_assert_eq!(rcode(&query, &answer), None);
            let answer: Vec<u8> = answer
                .iter()
                .enumerate()
                .map(|(place, byte)| if place == 2 { byte | 0x80 } else { *byte })
                .collect();
            prop_assert_eq!(rcode(&query, &answer), Some(Rcode::NOERROR));
        }
    }
}
