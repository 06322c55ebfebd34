use super::{IMPATIENCE, PATIENCE, ask_within, target};
use crate::health::kinds::{CheckKind, DnsCheck, Target};
use dataplane::Protocol;
use domain::base::iana::Rcode;
use domain::base::{Message, MessageBuilder, Rtype};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

fn dns() -> CheckKind {
    CheckKind::Dns(DnsCheck { name: "www.example.org".to_owned(), record: "AAAA".to_owned() })
}

fn over(protocol: Protocol, address: SocketAddr) -> Target {
    let mut target = target(address);
    target.service.protocol = protocol;
    target
}

/// An answer to `query` as servers give it.
fn answer(query: &Message<Vec<u8>>, rcode: Rcode) -> Vec<u8> {
    MessageBuilder::new_vec().start_answer(query, rcode).unwrap().finish()
}

/// Asks a server that answers with what `answers` makes of the query, one datagram for each.
async fn ask_server(
    timeout: Duration,
    answers: impl Fn(&Message<Vec<u8>>) -> Vec<Vec<u8>>,
) -> (Result<(), String>, String) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let target = over(Protocol::Udp, address);
    let serve = async {
        let mut buffer = [0; 512];
        let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
        let query = Message::from_octets(buffer[..length].to_vec()).unwrap();
        let question = query.sole_question().unwrap();
        assert_eq!(question.qname().to_string(), "www.example.org");
        assert_eq!(question.qtype(), Rtype::AAAA);
        assert!(query.header().rd() && !query.header().qr());
        for answer in answers(&query) {
            socket.send_to(&answer, from).await.unwrap();
        }
    };
    let (result, ()) = tokio::join!(ask_within(timeout, dns(), &target), serve);
    (result, format!("ask {address} for www.example.org AAAA: "))
}

#[tokio::test]
async fn noerror_is_well_with_or_without_records() {
    let (result, _) = ask_server(PATIENCE, |query| vec![answer(query, Rcode::NOERROR)]).await;
    assert_eq!(result, Ok(()));
}

#[tokio::test]
async fn other_codes_are_named() {
    for (rcode, name) in
        [(Rcode::NXDOMAIN, "NXDOMAIN"), (Rcode::SERVFAIL, "SERVFAIL"), (Rcode::REFUSED, "REFUSED")]
    {
        let (result, what) = ask_server(PATIENCE, |query| vec![answer(query, rcode)]).await;
        assert_eq!(result, Err(what + name));
    }
}

#[tokio::test]
async fn a_refusal_need_not_repeat_the_question() {
    let bare = |query: &Message<Vec<u8>>| {
        let mut builder = MessageBuilder::new_vec();
        *builder.header_mut() = query.header();
        builder.header_mut().set_qr(true);
        builder.header_mut().set_rcode(Rcode::FORMERR);
        vec![builder.finish()]
    };
    let (result, what) = ask_server(PATIENCE, bare).await;
    assert_eq!(result, Err(what + "FORMERR"));
}

#[tokio::test]
async fn what_answers_another_question_is_passed_over() {
    let strange = |query: &Message<Vec<u8>>| {
        let mut other_id = answer(query, Rcode::SERVFAIL);
        other_id[1] ^= 1;
        let mut other_name = answer(query, Rcode::NOERROR);
        other_name[13] ^= 1;
        vec![
            other_id,
            other_name,
            query.as_slice().to_vec(),
            b"garbage".to_vec(),
            vec![0xff; 600],
            Vec::new(),
        ]
    };
    let (result, what) = ask_server(IMPATIENCE, strange).await;
    assert_eq!(result, Err(what + "no answer to the question asked within 1 s"));
    let (result, _) = ask_server(PATIENCE, |query| {
        let mut all = strange(query);
        all.push(answer(query, Rcode::NOERROR));
        all
    })
    .await;
    assert_eq!(result, Ok(()));
}

#[tokio::test]
async fn a_closed_port_refuses_and_a_silent_one_is_late() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let target = over(Protocol::Udp, address);
    let what = format!("ask {address} for www.example.org AAAA");
    let late = ask_within(IMPATIENCE, dns(), &target).await;
    assert_eq!(late, Err(format!("{what}: no answer within 1 s")));
    drop(socket);
    assert_eq!(ask_within(PATIENCE, dns(), &target).await, Err(format!("{what}: refused")));
}

#[tokio::test]
async fn each_query_has_a_number_of_its_own() {
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..8 {
        let id = std::cell::Cell::new(0);
        let (result, _) = ask_server(PATIENCE, |query| {
            id.set(query.header().id());
            vec![answer(query, Rcode::NOERROR)]
        })
        .await;
        assert_eq!(result, Ok(()));
        ids.insert(id.get());
    }
    // That two of eight are alike by chance happens once in two thousand times; three, never.
    assert!(ids.len() >= 7, "{ids:?}");
}

#[tokio::test]
async fn a_tcp_service_is_asked_over_tcp() {
    for (cut, expected) in [
        (0, Ok(())),
        (1, Err("closed by the server")),
        (usize::MAX, Err("the answer is not to the question asked")),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = over(Protocol::Tcp, address);
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut query).await.unwrap();
            let query = Message::from_octets(query).unwrap();
            let mut answer = answer(&query, Rcode::NOERROR);
            if cut == usize::MAX {
                answer = vec![0; 3];
            }
            stream.write_u16(answer.len() as u16).await.unwrap();
            let sent = answer.len().saturating_sub(if cut == 1 { 1 } else { 0 });
            stream.write_all(&answer[..sent]).await.unwrap();
        };
        let (result, ()) = tokio::join!(ask_within(PATIENCE, dns(), &target), serve);
        let what = format!("ask {address} for www.example.org AAAA: ");
        assert_eq!(result, expected.map_err(|cause| what + cause));
    }
}
