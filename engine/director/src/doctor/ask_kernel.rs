//! Questions to the kernel over netlink that `rtnetlink` does not carry: generic netlink
//! (Documentation/userspace-api/netlink/intro.rst), and nftables.

use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;
use std::io;
use std::os::fd::AsRawFd;

/// GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID and CTRL_ATTR_FAMILY_NAME of
/// linux/genetlink.h.
const CONTROLLER: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// NLA_F_NESTED of linux/netlink.h.
const NESTED: u16 = 1 << 15;
/// Command, version, and two bytes of nothing.
const GENERIC_HEADER: usize = 4;
/// Seconds that the kernel may take.
const PATIENCE: i64 = 2;
/// More than any answer here is long.
const ANSWER_MAX: usize = 1 << 17;
/// More messages than any of these questions has as its answer.
const MESSAGES_MAX: usize = 10_000;

/// Attributes with their kinds, in their order.
pub type Attributes = Vec<(u16, Vec<u8>)>;

/// A message whose content is none of netlink's business.
#[derive(Debug)]
struct Plain {
    kind: u16,
    body: Vec<u8>,
}

impl NetlinkSerializable for Plain {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.body);
    }
}

impl NetlinkDeserializable for Plain {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Plain, DecodeError> {
        Ok(Plain { kind: header.message_type, body: payload.to_vec() })
    }
}

/// Asks and returns the bodies of all messages of the answer. `dump`: there may be many.
pub fn ask(
    protocol: SockProtocol,
    kind: u16,
    dump: bool,
    body: Vec<u8>,
) -> io::Result<Vec<Vec<u8>>> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | if dump { NLM_F_DUMP } else { 0 };
    let payload = NetlinkPayload::InnerMessage(Plain { kind, body });
    let mut message = NetlinkMessage::new(header, payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    send(socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
    let mut answers = Vec::new();
    let mut buffer = vec![0; ANSWER_MAX];
    while answers.len() < MESSAGES_MAX {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if take(&buffer[..length], &mut answers)? || !dump {
            break;
        }
    }
    Ok(answers)
}

/// Takes the messages of one datagram. Returns whether the answer ends with it.
fn take(datagram: &[u8], answers: &mut Vec<Vec<u8>>) -> io::Result<bool> {
    let mut rest = datagram;
    while !rest.is_empty() {
        let message = NetlinkMessage::<Plain>::deserialize(rest).map_err(io::Error::other)?;
        // Each message begins at a multiple of four bytes.
        let length = (message.header.length as usize).next_multiple_of(4).min(rest.len());
        match message.payload {
            NetlinkPayload::InnerMessage(plain) => answers.push(plain.body),
            NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
            NetlinkPayload::Done(_) | NetlinkPayload::Error(_) => return Ok(true),
            _ => {}
        }
        rest = &rest[length..];
    }
    Ok(false)
}

/// One attribute, as it travels.
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = (value.len() + 4) as u16;
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// One attribute that holds others.
pub fn nested(kind: u16, content: &[u8]) -> Vec<u8> {
    attribute(kind | NESTED, content)
}

/// The attributes of a message or of an attribute, up to the first that is broken.
pub fn attributes(bytes: &[u8]) -> Attributes {
    NlasIterator::new(bytes)
        .map_while(Result::ok)
        .map(|attribute| (attribute.kind(), attribute.value().to_vec()))
        .collect()
}

/// The first attribute of a kind.
pub fn find(attributes: &[(u16, Vec<u8>)], kind: u16) -> Option<&[u8]> {
    attributes.iter().find(|(of, _)| *of == kind).map(|(_, value)| value.as_slice())
}

/// A number of four bytes.
pub fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

/// Asks a family of generic netlink, by name. Returns the attributes of the answer.
pub fn ask_family(name: &str, command: u8, content: &[u8]) -> Result<Attributes, String> {
    let answers = ask_named(name, command, content, false)?;
    answers.into_iter().next().ok_or_else(|| "the kernel's answer is empty".to_owned())
}

/// As [`ask_family`], for a question with any number of answers.
pub fn ask_family_for_all(
    name: &str,
    command: u8,
    content: &[u8],
) -> Result<Vec<Attributes>, String> {
    ask_named(name, command, content, true)
}

fn ask_named(
    name: &str,
    command: u8,
    content: &[u8],
    dump: bool,
) -> Result<Vec<Attributes>, String> {
    let kind = family(name).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("this kernel has no netlink family {name:?}"),
        _ => format!("netlink family {name:?}: {error}"),
    })?;
    generic(kind, command, content, dump).map_err(|error| error.to_string())
}

fn family(name: &str) -> io::Result<u16> {
    let name = [name.as_bytes(), &[0]].concat();
    let answers = generic(CONTROLLER, GET_FAMILY, &attribute(FAMILY_NAME, &name), false)?;
    let id = answers.first().and_then(|answer| find(answer, FAMILY_ID)?.try_into().ok());
    id.map(u16::from_ne_bytes).ok_or_else(|| io::Error::other("an answer without an id"))
}

fn generic(kind: u16, command: u8, content: &[u8], dump: bool) -> io::Result<Vec<Attributes>> {
    let body = [&[command, 1, 0, 0], content].concat();
    let answers = ask(SockProtocol::NetlinkGeneric, kind, dump, body)?;
    Ok(answers.iter().filter_map(|body| body.get(GENERIC_HEADER..)).map(attributes).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_written_as_they_are_read() {
        let inner = attribute(3, b"abcde");
        assert_eq!(inner.len(), 12);
        let bytes = [nested(1, &inner), attribute(2, &7u32.to_ne_bytes())].concat();
        let read = attributes(&bytes);
        assert_eq!(read.len(), 2);
        assert_eq!(attributes(find(&read, 1).unwrap()), [(3, b"abcde".to_vec())]);
        assert_eq!(find(&read, 2).and_then(number), Some(7));
        assert_eq!(find(&read, 9), None);
        assert_eq!(number(&[1, 2]), None);
    }

    #[test]
    fn a_family_that_does_not_exist_is_named() {
        let error = ask_family("no-such", 1, &[]).unwrap_err();
        assert_eq!(error, "this kernel has no netlink family \"no-such\"");
    }

    #[test]
    fn the_kernels_refusal_is_an_error() {
        // No interface has this index.
        let error = ask_family("netdev", 1, &attribute(1, &u32::MAX.to_ne_bytes()));
        assert!(error.is_err(), "{error:?}");
    }
}
