use super::{IMPATIENCE, PATIENCE, ask_within, target};
use crate::health::kinds::{CheckKind, HttpCheck, Pattern};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

pub(super) fn http() -> HttpCheck {
    let status = vec![200..=200];
    HttpCheck { path: "/".to_owned(), host: None, status, body: None, tls: None }
}

fn matching(pattern: &str) -> HttpCheck {
    HttpCheck { body: Some(Pattern::new(pattern).unwrap()), ..http() }
}

/// Asks a server that does `serve` once it has read the request, which is returned without the
/// name of the error's place.
async fn ask_server<S>(
    timeout: Duration,
    check: HttpCheck,
    serve: impl FnOnce(TcpStream) -> S,
) -> (Result<(), String>, String, SocketAddr)
where
    S: Future<Output = ()>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let path = check.path.clone();
    let ask = async { ask_within(timeout, CheckKind::Http(check), &target(address)).await };
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = read_head(&mut stream).await;
        (request, serve(stream).await)
    };
    let (result, (request, ())) = tokio::join!(ask, server);
    let what = format!("GET http://{address}{path}: ");
    let result = result
        .map_err(|error| error.strip_prefix(&what).unwrap_or_else(|| panic!("{error}")).to_owned());
    (result, request, address)
}

pub(super) async fn read_head(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Says `text`, and leaves the connection open until the director closes it.
async fn say(mut stream: TcpStream, text: impl AsRef<[u8]>) {
    stream.write_all(text.as_ref()).await.unwrap();
    let _ = stream.read_u8().await;
}

async fn ask_for(check: HttpCheck, answer: &str) -> Result<(), String> {
    ask_server(PATIENCE, check, |stream| say(stream, answer)).await.0
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

#[tokio::test]
async fn the_request_is_one_of_http_1_1_for_the_path() {
    let check = HttpCheck { path: "/health?full=1".to_owned(), ..http() };
    let (result, request, address) = ask_server(PATIENCE, check, |stream| say(stream, OK)).await;
    assert_eq!(result, Ok(()));
    let mut lines: Vec<&str> = request.trim_end().lines().collect();
    assert_eq!(lines.remove(0), "GET /health?full=1 HTTP/1.1");
    lines.sort_by_key(|line| line.to_ascii_lowercase());
    let host = format!("host: {address}");
    let agent = concat!("user-agent: shunt/", env!("CARGO_PKG_VERSION"));
    assert_eq!(lines, ["accept: */*", &host, agent]);
}

#[tokio::test]
async fn the_header_host_can_be_named() {
    let check = HttpCheck { host: Some("www.example.org".to_owned()), ..http() };
    let (result, request, _) = ask_server(PATIENCE, check, |stream| say(stream, OK)).await;
    assert_eq!(result, Ok(()));
    assert!(request.contains("host: www.example.org\r\n"), "{request}");
}

#[tokio::test]
async fn the_director_closes_first_and_without_a_reset() {
    let serve = async |mut stream: TcpStream| {
        stream.write_all(OK.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        // The end, not an error.
        assert_eq!(stream.read_to_end(&mut rest).await.unwrap(), 0);
    };
    assert_eq!(ask_server(PATIENCE, http(), serve).await.0, Ok(()));
    // Whatever it thinks of the answer.
    let error = ask_server(PATIENCE, matching("bye"), serve).await.0.unwrap_err();
    assert_eq!(error, "the body does not match /bye/");
}

#[tokio::test]
async fn the_status_decides_and_redirects_are_not_followed() {
    let answer = |status| format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
    let found = answer("302 Found\r\nLocation: http://127.0.0.1:1/");
    let ranges = || HttpCheck { status: vec![200..=299, 302..=302], ..http() };
    for (check, answer, expected) in [
        (http(), answer("200 OK"), Ok(())),
        (http(), answer("204 No Content"), Err("status 204")),
        (http(), answer("500 Oh\u{1b}[31mno"), Err("status 500")),
        (http(), found.clone(), Err("status 302")),
        (ranges(), found, Ok(())),
        (ranges(), answer("299 x"), Ok(())),
        (ranges(), answer("301 x"), Err("status 301")),
        (ranges(), answer("999 x"), Err("status 999")),
    ] {
        let expected = expected.map_err(str::to_owned);
        // hyper takes no control characters in a reason, which is as well.
        let result = ask_for(check, &answer).await;
        if answer.contains('\u{1b}') {
            assert!(result.is_err(), "{answer}");
        } else {
            assert_eq!(result, expected, "{answer}");
        }
    }
}

#[tokio::test]
async fn the_body_must_match() {
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";
    for answer in [OK, chunked] {
        assert_eq!(ask_for(matching("^hello$"), answer).await, Ok(()));
        let error = ask_for(matching("(?i)HELL$"), answer).await.unwrap_err();
        assert_eq!(error, "the body does not match /(?i)HELL$/");
    }
    // Without a length, the end of the connection is that of the body.
    let until_closed = async |mut stream: TcpStream| {
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello").await.unwrap();
    };
    let (result, ..) = ask_server(PATIENCE, matching("^hello$"), until_closed).await;
    assert_eq!(result, Ok(()));
}

#[tokio::test]
async fn a_slow_answer_is_waited_for_until_the_timeout() {
    let drip = async |mut stream: TcpStream| {
        for byte in OK.bytes() {
            sleep(Duration::from_millis(2)).await;
            if stream.write_all(&[byte]).await.is_err() {
                break;
            }
        }
        let _ = stream.read_u8().await;
    };
    assert_eq!(ask_server(PATIENCE, matching("hello"), drip).await.0, Ok(()));
    let silent = async |mut stream: TcpStream| {
        let _ = stream.read_u8().await;
    };
    let error = ask_server(IMPATIENCE, http(), silent).await.0.unwrap_err();
    assert_eq!(error, "no answer within 1 s");
    let half = |stream| say(stream, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel");
    let error = ask_server(IMPATIENCE, http(), half).await.0.unwrap_err();
    assert_eq!(error, "the answer has no end within 1 s");
}

#[tokio::test]
async fn what_ends_early_is_no_answer() {
    let early = "closed by the server before the answer was complete";
    let in_body = "body: closed by the server";
    for (said, expected) in [
        ("", early),
        ("HTTP/1.1 200 OK\r\nContent-Le", early),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", in_body),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n", in_body),
    ] {
        let serve = async |mut stream: TcpStream| {
            stream.write_all(said.as_bytes()).await.unwrap();
        };
        let error = ask_server(PATIENCE, http(), serve).await.0.unwrap_err();
        assert_eq!(error, expected, "{said}");
    }
}

#[tokio::test]
async fn what_is_no_http_is_said() {
    for said in
        ["SSH-2.0-OpenSSH_9.2\r\n\r\n", "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "HTTP/1.1 x\r\n\r\n"]
    {
        let (result, ..) = ask_server(PATIENCE, http(), |stream| say(stream, said)).await;
        assert_eq!(result, Err("the answer is no HTTP".to_owned()), "{said}");
    }
}

/// Writes `pattern` until the director has had enough; says how many bytes it took.
async fn flood(mut stream: TcpStream, head: &str, pattern: &[u8]) -> usize {
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut written = 0;
    while written < 256 << 20 {
        match stream.write(pattern).await {
            Ok(length) => written += length,
            Err(_) => return written,
        }
    }
    panic!("the director takes {written} bytes");
}

#[tokio::test]
async fn an_endless_body_is_read_up_to_its_bound() {
    let head = "HTTP/1.1 200 OK\r\n\r\n";
    let endless = async |stream| {
        let taken = flood(stream, head, &[b'x'; 4096]).await;
        // What the buffers of two sockets hold is on its way when the director closes.
        assert!((64 << 10..32 << 20).contains(&taken), "{taken}");
    };
    let begin = Instant::now();
    assert_eq!(ask_server(PATIENCE, http(), endless).await.0, Ok(()));
    let endless = async |stream| {
        let _ = flood(stream, head, &[b'x'; 4096]).await;
    };
    let error = ask_server(PATIENCE, matching("y"), endless).await.0.unwrap_err();
    assert_eq!(error, "the body does not match /y/");
    assert!(begin.elapsed() < PATIENCE);
    // The last byte within the bound counts, and the first one beyond does not.
    let bound = 64 << 10;
    for (place, expected) in [(bound - 1, true), (bound, false)] {
        let mut body = vec![b'x'; bound + 100];
        body[place] = b'y';
        let text = [head.as_bytes(), &body].concat();
        let serve = async |mut stream: TcpStream| {
            let _ = stream.write_all(&text).await;
        };
        let (result, ..) = ask_server(PATIENCE, matching("y"), serve).await;
        assert_eq!(result.is_ok(), expected, "{place}");
    }
}

#[tokio::test]
async fn an_endless_head_is_refused() {
    let too_large = "the answer's head is larger than 65536 bytes";
    for (patience, head, pattern, expected) in [
        (PATIENCE, "HTTP/1.1 200 OK\r\n", &b"X-Header: of no use\r\n"[..], too_large),
        (PATIENCE, "HTTP/1.1 200 OK\r\nX-Long: ", &[b'x'; 4096], too_large),
        // Each of these is an answer of its own that says: go on.
        (
            IMPATIENCE,
            "HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            "no answer within 1 s",
        ),
    ] {
        let endless = async |stream| {
            let _ = flood(stream, head, pattern).await;
        };
        let error = ask_server(patience, http(), endless).await.0.unwrap_err();
        assert_eq!(error, expected, "{head}");
    }
}

#[tokio::test]
async fn an_ipv6_address_stands_in_brackets() {
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = read_head(&mut stream).await;
        say(stream, OK).await;
        request
    };
    let kind = CheckKind::Http(http());
    let target = target(address);
    let (result, request) = tokio::join!(ask_within(PATIENCE, kind, &target), serve);
    assert_eq!(result, Ok(()));
    assert!(request.contains(&format!("host: [::1]:{}\r\n", address.port())), "{request}");
}
