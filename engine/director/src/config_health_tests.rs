use super::*;
use crate::config::{Config, Problem};
use crate::config_text;
use crate::reload;
use crate::scheduler_name::stock_only;
use crate::services::Services;
use proptest::prelude::*;
use std::fs::Permissions;
use std::path::PathBuf;

/// A config whose health check has these lines, from line 8 on.
fn config(protocol: &str, lines: &str) -> String {
    format!(
        "[[interface]]\nname = \"eth0\"\n[[virtual_service]]\naddress = \"172.17.100.100:80\"\n\
         protocol = \"{protocol}\"\nscheduler = \"wrr\"\n[virtual_service.health_check]\n{lines}\n\
         [[virtual_service.real_server]]\naddress = \"172.17.100.1\"\n"
    )
}

fn parse(protocol: &str, lines: &str) -> Result<HealthCheck, Vec<Problem>> {
    let config = Config::parse(&config(protocol, lines), &stock_only)?;
    Ok(HealthCheck::clone(config.services[0].policy.check.as_ref().unwrap()))
}

fn check(lines: &str) -> HealthCheck {
    parse("tcp", lines).unwrap_or_else(|problems| panic!("{lines}: {problems:?}"))
}

/// A check of this kind that says nothing else.
fn default_of(kind: CheckKind) -> HealthCheck {
    HealthCheck {
        kind,
        port: None,
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(2),
        rise: 2,
        fall: 3,
        jitter: 0.1,
        on_failure: OnFailure::Drain,
    }
}

fn http(tls: Option<TlsCheck>) -> HttpCheck {
    HttpCheck { path: "/".to_owned(), host: None, status: vec![200..=200], body: None, tls }
}

/// A file with a mode, removed when dropped.
struct Written(PathBuf);

impl Written {
    fn new(name: &str, content: impl AsRef<[u8]>, mode: u32) -> Written {
        let name = format!("shunt-check-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        Written(path)
    }

    fn certificate(name: &str) -> Written {
        let certificate = rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap();
        Written::new(name, certificate.cert.pem(), 0o644)
    }

    fn quoted(&self) -> String {
        quoted(self.0.to_str().unwrap())
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_service_has_no_check_unless_the_config_says_so() {
    let text = config("tcp", "kind = \"tcp\"")
        .replace("[virtual_service.health_check]\nkind = \"tcp\"\n", "");
    let config = Config::parse(&text, &stock_only).unwrap();
    assert_eq!(config.services[0].policy.check, None);
}

#[test]
fn what_is_left_out_has_the_documented_defaults() {
    let udp = UdpCheck { send: String::new(), expect: None, silence: Duration::from_secs(1) };
    let dns = DnsCheck { name: "example.org".to_owned(), record: "A".to_owned() };
    let command = CommandCheck { command: vec!["/bin/sh".to_owned()] };
    for (lines, kind) in [
        ("kind = \"tcp\"", CheckKind::Tcp),
        ("kind = \"dr\"", CheckKind::Dr),
        ("kind = \"http\"", CheckKind::Http(http(None))),
        ("kind = \"https\"", CheckKind::Http(http(Some(TlsCheck::default())))),
        ("kind = \"udp\"", CheckKind::Udp(udp)),
        ("kind = \"dns\"\nname = \"example.org\"", CheckKind::Dns(dns)),
        ("kind = \"command\"\ncommand = [\"/bin/sh\"]", CheckKind::Command(command)),
    ] {
        assert_eq!(check(lines), default_of(kind), "{lines}");
    }
}

#[test]
fn a_timeout_that_is_left_out_is_no_longer_than_the_interval() {
    let check = check("kind = \"udp\"\ninterval = 0.5");
    assert_eq!(check.timeout, Duration::from_millis(500));
    let CheckKind::Udp(udp) = check.kind else { panic!() };
    assert_eq!(udp.silence, Duration::from_millis(250));
}

#[test]
fn every_key_is_heard() {
    let ca = Written::certificate("heard");
    let found = check(&format!(
        "kind = \"https\"\ninterval = 1.5\ntimeout = 1\nrise = 4\nfall = 5\njitter = 0\n\
         on_failure = \"expire\"\nport = 8443\npath = \"/a?b\"\nhost = \"www.example.org:81\"\n\
         status = [204, \"300-399\", \"201\"]\nbody = \"^x$\"\nca = {}\nserver_name = \"sni\"",
        ca.quoted()
    ));
    let CheckKind::Http(http) = &found.kind else { panic!("{found:?}") };
    let TlsCheck { ca: authority, server_name } = http.tls.as_ref().unwrap();
    let authority = authority.as_ref().unwrap();
    assert_eq!((&authority.path, authority.roots.len()), (&ca.0, 1));
    assert_eq!(server_name.as_deref(), Some("sni"));
    assert_eq!((http.path.as_str(), http.host.as_deref()), ("/a?b", Some("www.example.org:81")));
    assert_eq!(http.status, [204..=204, 300..=399, 201..=201]);
    assert!(http.body.as_ref().is_some_and(|body| body.as_str() == "^x$"));
    let expected = HealthCheck {
        kind: found.kind.clone(),
        port: Some(8443),
        interval: Duration::from_millis(1500),
        timeout: Duration::from_secs(1),
        rise: 4,
        fall: 5,
        jitter: 0.0,
        on_failure: OnFailure::Expire,
    };
    assert_eq!(found, expected);
    let found = check("kind = \"udp\"\nsend = \"a\\u0000\\n\"\nexpect = '\\x00'");
    let CheckKind::Udp(UdpCheck { send, expect, .. }) = found.kind else { panic!() };
    assert_eq!((send.as_str(), expect.unwrap().as_str()), ("a\0\n", "\\x00"));
    let found = check("kind = \"dns\"\nname = \"example.org.\"\nrecord = \"TYPE65\"");
    let dns = DnsCheck { name: "example.org.".to_owned(), record: "TYPE65".to_owned() };
    assert_eq!(found.kind, CheckKind::Dns(dns));
    let found = check("kind = \"command\"\ncommand = [\"/bin/sh\", \"-c\", \"\"]");
    let command = ["/bin/sh", "-c", ""].map(str::to_owned).to_vec();
    assert_eq!(found.kind, CheckKind::Command(CommandCheck { command }));
}

/// What is wrong with these lines, which is one thing: where, and what.
fn problem(protocol: &str, lines: &str) -> (usize, usize, String) {
    let problems = parse(protocol, lines).expect_err(lines);
    let [Problem { line, column, message }] = &problems[..] else {
        panic!("{lines}: {problems:?}")
    };
    assert!(!message.contains('\n') && !message.contains("  "), "{message}");
    (*line, *column, message.clone())
}

#[test]
fn bad_values_are_named_with_their_place_and_the_next_step() {
    let long = format!("kind = \"udp\"\nsend = \"{}\"", "x".repeat(1201));
    let pattern = format!("kind = \"http\"\nbody = \"{}\"", "x".repeat(1025));
    for (lines, place, expected) in [
        ("interval = 5", (7, 1), "missing field `kind`"),
        ("kind = \"icmp\"", (8, 8), "expected one of `tcp`, `http`"),
        ("kind = \"tcp\"\nintervall = 5", (9, 1), "unknown field `intervall`"),
        ("kind = \"tcp\"\ninterval = 0", (9, 12), "interval is 0: write a number from 0.1 to 3600"),
        ("kind = \"tcp\"\ninterval = nan", (9, 12), "interval is NaN: write a number"),
        ("kind = \"tcp\"\ninterval = \"5\"", (9, 12), "interval is \"5\": write a number"),
        ("kind = \"tcp\"\ninterval = [5]", (9, 12), "of the type array: write a number"),
        ("kind = \"tcp\"\ntimeout = 0", (9, 11), "write a number from 0.01 to 3600"),
        ("kind = \"tcp\"\ntimeout = 5.1", (9, 11), "timeout is 5.1 s and interval 5 s"),
        ("kind = \"tcp\"\nrise = 0", (9, 8), "rise is 0: write a number from 1 to 1000"),
        ("kind = \"tcp\"\nfall = 1001", (9, 8), "fall is 1001: write a number from 1 to 1000"),
        ("kind = \"tcp\"\nfall = 1.5", (9, 8), "expected i64"),
        ("kind = \"tcp\"\njitter = 1.01", (9, 10), "jitter is 1.01: write a number from 0 to 1"),
        ("kind = \"tcp\"\non_failure = \"drop\"", (9, 14), "expected `drain` or `expire`"),
        ("kind = \"tcp\"\nport = 0", (9, 8), "port is 0: write a number from 1 to 65535"),
        ("kind = \"tcp\"\npath = \"/\"", (9, 8), "path is a key of http and https checks"),
        ("kind = \"http\"\nca = \"/\"", (9, 6), "ca is a key of https checks, and this is a http"),
        ("kind = \"udp\"\ncommand = [\"/bin/sh\"]", (9, 11), "remove command, or change kind"),
        ("kind = \"dr\"\nport = 80", (9, 8), "asks for the VIP and port of the service"),
        ("kind = \"http\"\npath = \"health\"", (9, 8), "write one as in \"/health?full=1\""),
        ("kind = \"http\"\npath = \"/a b\"", (9, 8), "\"/a b\" is no path"),
        ("kind = \"http\"\npath = \"/a#b\"", (9, 8), "is no path"),
        ("kind = \"http\"\npath = \"/\\r\\nX: y\"", (9, 8), "is no path"),
        ("kind = \"http\"\nhost = \"a b\"", (9, 8), "is no name of a host"),
        ("kind = \"http\"\nhost = \"a@b\"", (9, 8), "is no name of a host"),
        ("kind = \"http\"\nhost = \"\"", (9, 8), "is no name of a host"),
        ("kind = \"http\"\nhost = \"a\\nb\"", (9, 8), "is no name of a host"),
        ("kind = \"http\"\nstatus = 200", (9, 10), "expected a sequence"),
        ("kind = \"http\"\nstatus = []", (9, 10), "write [200], or leave status out"),
        ("kind = \"http\"\nstatus = [200, 100]", (9, 16), "100 is no status: write numbers from"),
        ("kind = \"http\"\nstatus = [\"299-200\"]", (9, 11), "\"299-200\" is no status"),
        ("kind = \"http\"\nstatus = [\"200-\"]", (9, 11), "is no status"),
        ("kind = \"http\"\nstatus = [\"2xx\"]", (9, 11), "ranges as in \"200-299\""),
        ("kind = \"http\"\nbody = \"(\"", (9, 8), "no regular expression (unclosed group)"),
        ("kind = \"http\"\nbody = \"(x{999}){999}\"", (9, 8), "body is too complex to be matched"),
        ("kind = \"udp\"\nexpect = \"ab.{99}z\"", (9, 10), "write * or + instead of great"),
        (&pattern, (9, 8), "body has 1025 bytes: write a pattern of at most 1024"),
        ("kind = \"https\"\nca = \"ca.pem\"", (9, 6), "ca needs an absolute path"),
        ("kind = \"https\"\nca = \"/no/such/ca.pem\"", (9, 6), "cannot read /no/such/ca.pem"),
        ("kind = \"https\"\nca = \"/etc/passwd\"", (9, 6), "holds no usable certificate"),
        ("kind = \"https\"\nserver_name = \"a b\"", (9, 15), "that a certificate could be for"),
        (&long, (9, 8), "send has 1201 bytes: write at most 1200"),
        ("kind = \"udp\"\nexpect = \"[\"", (9, 10), "expect is no regular expression"),
        ("kind = \"dns\"", (8, 8), "add name = \"www.example.org\""),
        ("kind = \"dns\"\nname = \"a..b\"", (9, 8), "\"a..b\" is no name in the DNS"),
        ("kind = \"dns\"\nname = \"a\"\nrecord = \"Z\"", (10, 10), "\"Z\" is no type of a record"),
        ("kind = \"command\"", (8, 8), "add command = ["),
        ("kind = \"command\"\ncommand = []", (9, 11), "command is empty"),
        ("kind = \"command\"\ncommand = \"/bin/sh\"", (9, 11), "expected a sequence"),
        ("kind = \"command\"\ncommand = [\"sh\"]", (9, 12), "as `command -v sh` prints it"),
        ("kind = \"command\"\ncommand = [\"/no/such\"]", (9, 12), "cannot find /no/such"),
        ("kind = \"command\"\ncommand = [\"/etc/passwd\"]", (9, 12), "`chmod +x /etc/passwd`"),
        ("kind = \"command\"\ncommand = [\"/bin\"]", (9, 12), "/bin is no program"),
        ("kind = \"command\"\ncommand = [\"/bin/sh\", \"\\u0000\"]", (9, 23), "a zero byte"),
    ] {
        let (line, column, message) = problem("tcp", lines);
        assert_eq!((line, column), place, "{lines}: {message}");
        assert!(message.contains(expected), "{lines}: {message}");
    }
    let (line, column, message) = problem("udp", "kind = \"dr\"");
    assert_eq!((line, column), (8, 8));
    assert!(message.contains("this service is UDP"), "{message}");
}

#[test]
fn a_program_that_anyone_may_change_is_refused() {
    let program = Written::new("open", "#!/bin/sh\n", 0o757);
    let lines = format!("kind = \"command\"\ncommand = [{}]", program.quoted());
    let (line, column, message) = problem("tcp", &lines);
    assert_eq!((line, column), (9, 12));
    assert!(message.contains("mode 0757") && message.contains("`chmod o-w"), "{message}");
}

#[test]
fn other_certificates_in_the_same_file_make_another_check() {
    let ca = Written::certificate("changes");
    let lines = format!("kind = \"https\"\nca = {}", ca.quoted());
    let first = check(&lines);
    assert_eq!(first, check(&lines));
    drop(ca);
    let _ca = Written::certificate("changes");
    assert_ne!(first, check(&lines));
}

/// What `shunt save` prints of a config.
fn saved(text: &str) -> String {
    let config = Config::parse(text, &stock_only).unwrap();
    let mut services = Services::default();
    reload::apply(&mut services, &reload::differences(&[], &config.services)).unwrap();
    config_text::write(&config, &services)
}

#[test]
fn what_is_saved_reads_the_same() {
    let ca = Written::certificate("saved");
    for lines in [
        "kind = \"tcp\"\nport = 81\ninterval = 0.3",
        "kind = \"dr\"\non_failure = \"expire\"",
        "kind = \"http\"\nstatus = [204, \"200-201\"]\nbody = '\"\\d'\nhost = \"a\"",
        "kind = \"udp\"\nsend = \"\\u0000\\\"\\\\\"\nexpect = '^\\x00'",
        "kind = \"dns\"\nname = \"example.org\"\nrecord = \"SOA\"",
        "kind = \"command\"\ncommand = [\"/bin/sh\", \"-c\", \"echo \\\"x\\\"\"]",
        &format!("kind = \"https\"\nca = {}\nserver_name = \"a\"", ca.quoted()),
    ] {
        let saved = saved(&config("tcp", lines));
        let again = Config::parse(&saved, &stock_only).unwrap();
        assert_eq!(again.services[0].policy.check.as_deref(), Some(&check(lines)), "{saved}");
        assert_eq!(again.services[0].servers.len(), 1, "{saved}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_times_and_texts_are_saved_so_that_they_read_the_same(
        interval in 0.1..3600.0f64,
        share in 0.01..1.0f64,
        jitter in 0.0..1.0f64,
        send in "\\PC{0,60}",
        expect in "\\PC{0,20}",
    ) {
        let timeout = (interval * share).max(0.01);
        // What \< and \> stand for are the ends of a word.
        let plain = |c: char| !c.is_ascii_punctuation() || "<>".contains(c);
        let escaped = expect.chars().map(|c| if plain(c) { c.to_string() } else { format!("\\{c}") });
        let expect: String = escaped.collect();
        let lines = format!(
            "kind = \"udp\"\ninterval = {interval}\ntimeout = {timeout}\njitter = {jitter}\n\
             send = {}\nexpect = {}", quoted(&send), quoted(&expect)
        );
        let saved = saved(&config("tcp", &lines));
        let again = Config::parse(&saved, &stock_only).unwrap();
        prop_assert_eq!(again.services[0].policy.check.as_deref(), Some(&check(&lines)));
    }
}

/// The keys that the example comments out, by the kinds that they are for; those for all come
/// first.
fn example() -> Vec<(Vec<String>, Vec<String>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/director.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let table = text.split("# [virtual_service.health_check]\n").nth(1).unwrap();
    let mut groups = vec![(Vec::new(), Vec::new())];
    for line in table.lines().map_while(|line| line.strip_prefix('#')) {
        let comment = line.trim();
        if let Some(kinds) = comment.strip_prefix("# ").and_then(|kinds| kinds.strip_suffix(':')) {
            groups.push((kinds.split(", ").map(str::to_owned).collect(), Vec::new()));
        } else if !comment.starts_with('#') {
            groups.last_mut().unwrap().1.push(comment.to_owned());
        }
    }
    groups
}

#[test]
fn the_commented_example_says_every_key_and_its_default() {
    let groups = example();
    let (_, common) = &groups[0];
    let ca = Written::certificate("example");
    let mut seen = 0;
    for kind in ["tcp", "http", "https", "udp", "dns", "command", "dr"] {
        let special = groups.iter().filter(|(kinds, _)| kinds.iter().any(|known| known == kind));
        let keys: Vec<&String> = common
            .iter()
            .skip(1)
            .chain(special.flat_map(|(_, keys)| keys))
            .filter(|key| kind != "dr" || !key.starts_with("port"))
            .collect();
        seen += keys.len();
        let lines = |keys: &[&String]| {
            let lines: String = keys.iter().map(|key| format!("{key}\n")).collect();
            format!("kind = \"{kind}\"\n{lines}")
                .replace("/etc/shunt/ca.pem", ca.0.to_str().unwrap())
                .replace("/usr/local/bin/is_well", "/bin/sh")
        };
        // All that it shows is right together ...
        check(&lines(&keys));
        // ... and what it does not call an example is the default.
        let (examples, defaults): (Vec<&String>, Vec<&String>) = keys
            .into_iter()
            .partition(|key| key.contains("left out (the default)") || key.contains("no default"));
        let needed: Vec<&String> =
            examples.into_iter().filter(|key| key.contains("no default")).collect();
        let said = check(&lines(&[&needed[..], &defaults[..]].concat()));
        assert_eq!(said, check(&lines(&needed)), "{kind}");
    }
    assert_eq!(common.len(), 8, "{common:?}");
    // 7 for all but dr, which has 6; http 4, https 6, udp 2, dns 2, command 1.
    assert_eq!(seen, 6 * 7 + 6 + 4 + 6 + 2 + 2 + 1);
}
