use crate::config::{BusyPollConfig, Config, DuplicateVip, Mode, Poll, Problem, Queues, macs};
use crate::scheduler_name::stock_only;
use dataplane::{Protocol, Timeouts, UnknownFlow};
use std::path::{Path, PathBuf};

const SMALL: &str = r#"
[[interface]]
name = "eth0"
[[virtual_service]]
address = "172.17.100.100:80"
protocol = "tcp"
[[virtual_service.real_server]]
address = "172.17.100.1"
"#;

const HEALTH_CHECK: &str = "# [virtual_service.health_check]";

fn parse(text: &str) -> Result<Config, Vec<Problem>> {
    Config::parse(text, &stock_only)
}

/// `SMALL` with one line replaced or added after it.
fn problems_with(line: &str, replacement: &str) -> Vec<Problem> {
    assert!(SMALL.contains(line), "{line}");
    parse(&SMALL.replacen(line, replacement, 1)).unwrap_err()
}

#[test]
fn the_commented_example_says_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/director.toml");
    let example = Config::read(&path, &stock_only).unwrap();
    let mut small = parse(SMALL).unwrap();
    small.services[0].servers.push(example.services[0].servers[1]);
    assert_eq!(example, small);
}

#[test]
fn every_key_that_the_example_comments_out_is_a_default_too() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/director.toml");
    let text = std::fs::read_to_string(path).unwrap();
    // These are examples, and say so.
    let examples = ["mac = ", "group = ", "listen = ", "token_file = ", "certificate = ", "key = "];
    let commented_in: String = text
        .lines()
        // The table of health checks says other things for each kind; it has a test of its own.
        .scan(false, |in_checks, line| {
            *in_checks = line.starts_with('#') && (*in_checks || line == HEALTH_CHECK);
            Some(if *in_checks { "" } else { line })
        })
        .map(|line| match line.strip_prefix("# ") {
            Some(key) if examples.iter().any(|example| key.starts_with(example)) => String::new(),
            Some(key) if key.starts_with("[interface.") || key.contains(" = ") => {
                format!("{}\n", key.replace("cores = [2, 3]", ""))
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let config = parse(&commented_in).unwrap();
    assert_eq!(config.interfaces[0].busy_poll, Some(BusyPollConfig::default()));
}

#[test]
fn defaults_are_those_that_are_documented() {
    let config = parse(SMALL).unwrap();
    assert_eq!(config.poll, Poll::Adaptive);
    assert_eq!((config.capacity.flows_v4, config.capacity.flows_v6), (1_000_000, 250_000));
    assert_eq!(config.settings.timeouts, Timeouts::default());
    assert_eq!(config.settings.unknown_flow, UnknownFlow::Reset);
    assert_eq!((config.manage_vip, config.duplicate_vip), (true, DuplicateVip::Refuse));
    assert_eq!(config.interfaces[0].mode, Mode::Auto);
    assert_eq!(config.interfaces[0].queues, Queues::All);
    assert_eq!(config.interfaces[0].cores, None);
    assert_eq!(config.interfaces[0].busy_poll, None);
    assert_eq!(config.api.socket, PathBuf::from("/run/shunt/api.sock"));
    assert_eq!(config.metrics_listen, Some("127.0.0.1:9464".parse().unwrap()));
    assert_eq!(config.services[0].scheduler.to_string(), "rr");
    assert_eq!(config.services[0].servers[0].weight, 1);
}

#[test]
fn every_key_is_heard() {
    let config = parse(
        r#"
poll = "busy"
flows = 2_000_000
flows_v6 = 5_000
unknown_flow = "schedule"
manage_vip = false
duplicate_vip = "take"
timeouts = { tcp = 1, tcpfin = 2, udp = 3 }
api = { socket = "/tmp/s" }
metrics = { listen = "[::1]:80" }
[[interface]]
name = "eth0"
mode = "zero-copy"
queues = [1, 3]
cores = [0, 2]
busy_poll = { budget = 128, wait = 50, defer_hard_irqs = 3, gro_flush_timeout = 5 }
[[interface]]
name = "eth1"
mode = "copy"
[[virtual_service]]
address = "[2001:db8::100]:53"
protocol = "udp"
scheduler = "lc"
[[virtual_service.real_server]]
address = "2001:db8::1"
weight = 65535
mac = "02-00-5E-10-00-0a"
"#,
    )
    .unwrap();
    assert_eq!(config.poll, Poll::Busy);
    assert_eq!((config.capacity.flows_v4, config.capacity.flows_v6), (2_000_000, 5_000));
    assert_eq!(config.settings.unknown_flow, UnknownFlow::Schedule);
    assert_eq!((config.manage_vip, config.duplicate_vip), (false, DuplicateVip::Take));
    let timeouts = config.settings.timeouts;
    assert_eq!((timeouts.established, timeouts.fin_wait, timeouts.udp), (1, 2, 3));
    assert_eq!(config.api.socket, PathBuf::from("/tmp/s"));
    assert_eq!(config.metrics_listen, Some("[::1]:80".parse().unwrap()));
    let [first, second] = &config.interfaces[..] else { panic!("{:?}", config.interfaces) };
    assert_eq!((first.mode, second.mode), (Mode::ZeroCopy, Mode::Copy));
    assert_eq!(first.queues, Queues::List(vec![1, 3]));
    assert_eq!(first.cores, Some(vec![0, 2]));
    let busy_poll =
        BusyPollConfig { budget: 128, wait: 50, defer_hard_irqs: 3, gro_flush_timeout: 5 };
    assert_eq!(first.busy_poll, Some(busy_poll));
    let service = &config.services[0];
    assert_eq!((service.key.port, service.key.protocol), (53, Protocol::Udp));
    assert_eq!(service.scheduler.to_string(), "lc");
    assert_eq!(service.servers[0].weight, 65_535);
    assert_eq!(service.servers[0].mac, Some([2, 0, 0x5e, 0x10, 0, 0x0a]));
    assert_eq!(
        macs(&config.services),
        [(service.servers[0].address, [2, 0, 0x5e, 0x10, 0, 0x0a])].into()
    );
    assert_eq!(
        parse(&SMALL.replacen('\n', "\nmetrics = { listen = \"off\" }\n", 1))
            .unwrap()
            .metrics_listen,
        None
    );
}

#[test]
fn bad_values_are_named_with_their_place_and_the_next_step() {
    let server = "address = \"172.17.100.1\"";
    for (line, replacement, place, expected) in [
        (server, "address = \"172.17.100.1\"\nweight = 65536", (9, 10), "from 0 to 65535"),
        (server, "address = \"172.17.100.1\"\nweight = -1", (9, 10), "from 0 to 65535"),
        (server, "address = \"172.17.100.1\"\nweight = \"1\"", (9, 10), "expected i64"),
        (server, "address = \"2001:db8::1\"", (8, 11), "not of the same family"),
        (server, "address = \"172.17.100.100\"", (8, 11), "is the VIP itself"),
        (server, "address = \"172.17.100.1:81\"", (8, 11), "keeps the destination port"),
        (server, "address = \"rs1\"", (8, 11), "no address of a real server"),
        (server, "adress = \"172.17.100.1\"", (8, 1), "unknown field `adress`"),
        ("172.17.100.100:80", "172.17.100.100", (5, 11), "write \"172.17.100.100:80\""),
        ("172.17.100.100:80", "172.17.100.100:0", (5, 11), "name the port"),
        ("172.17.100.100:80", "::1:80", (5, 11), "has no port: write \"[::1:80]:80\""),
        ("172.17.100.100:80", "[::1]:80", (5, 11), "loopback"),
        ("\"tcp\"", "\"sctp\"", (6, 12), "expected `tcp` or `udp`"),
        ("\"tcp\"", "\"tcp\"\nscheduler = \"wr\"", (7, 13), "write one of rr, wrr, lc"),
        ("name = \"eth0\"", "name = \"\"", (3, 8), "`ip link` lists them"),
        ("name = \"eth0\"", "name = \"eth0\"\nqueues = \"one\"", (4, 10), "\"all\" or a list"),
        ("name = \"eth0\"", "name = \"eth0\"\nqueues = []", (4, 10), "\"all\" or a list"),
        ("name = \"eth0\"", "name = \"eth0\"\nqueues = [0, 0]", (4, 10), "listed twice"),
        ("name = \"eth0\"", "name = \"eth0\"\nqueues = [-1]", (4, 10), "is no queue"),
        (
            "name = \"eth0\"",
            "name = \"eth0\"\nqueues = [0, 1]\ncores = [1]",
            (5, 9),
            "1 cores for 2",
        ),
        ("name = \"eth0\"", "name = \"eth0\"\ncores = [1, 1]", (4, 13), "in line 4"),
        ("name = \"eth0\"", "name = \"eth0\"\nmode = \"fast\"", (4, 8), "expected one of `auto`"),
        (
            "name = \"eth0\"",
            "name = \"eth0\"\nbusy_poll = { budget = 0 }",
            (4, 24),
            "from 1 to 1024",
        ),
        (
            "name = \"eth0\"",
            "name = \"eth0\"\n[[interface]]\nname = \"eth0\"",
            (5, 8),
            "already in line 3",
        ),
        ("[[interface]]\nname = \"eth0\"", "", (1, 1), "no interface"),
        ("[[interface]]", "flows = 10\n[[interface]]", (2, 9), "flows is 10"),
        ("[[interface]]", "flows_v6 = 0\n[[interface]]", (2, 12), "flows_v6 is 0"),
        ("[[interface]]", "timeouts = { tcp = 0 }\n[[interface]]", (2, 20), "timeout tcp is 0"),
        ("[[interface]]", "timeouts = { tcpfin = 90000 }\n[[interface]]", (2, 23), "tcpfin"),
        ("[[interface]]", "timeouts = { syn = 1 }\n[[interface]]", (2, 14), "unknown field `syn`"),
        (
            "[[interface]]",
            "poll = \"lazy\"\n[[interface]]",
            (2, 8),
            "expected `adaptive` or `busy`",
        ),
        ("[[interface]]", "api = { socket = \"s\" }\n[[interface]]", (2, 18), "absolute path"),
        ("[[interface]]", "metrics = { listen = \"9464\" }\n[[interface]]", (2, 22), "no address"),
        ("[[interface]]", "nonsense\n[[interface]]", (2, 9), "expected"),
    ] {
        let problems = problems_with(line, replacement);
        let [problem] = &problems[..] else { panic!("{replacement}: {problems:?}") };
        assert_eq!((problem.line, problem.column), place, "{replacement}: {problem:?}");
        assert!(problem.message.contains(expected), "{replacement}: {}", problem.message);
        assert!(!problem.message.contains('\n'), "{replacement}: {}", problem.message);
    }
}

#[test]
fn every_problem_is_found_and_they_come_in_the_order_of_the_file() {
    let service = "[[virtual_service]]\naddress = \"172.17.100.100:80\"\nprotocol = \"tcp\"\n";
    let server = "[[virtual_service.real_server]]\naddress = \"172.17.100.1\"\n";
    let text = format!("{SMALL}{server}{service}scheduler = \"x\"\n{server}weight = 70000\n");
    let problems = parse(&text).unwrap_err();
    let found: Vec<_> = problems.iter().map(|p| (p.line, p.message.as_str())).collect();
    assert_eq!(problems.len(), 4, "{problems:?}");
    assert!(found[0].0 == 10 && found[0].1.contains("already in line 8"), "{found:?}");
    assert!(found[1].0 == 12 && found[1].1.contains("already in line 5"), "{found:?}");
    assert!(found[2].0 == 14 && found[2].1.contains("unknown scheduler"), "{found:?}");
    assert!(found[3].0 == 17 && found[3].1.contains("weight"), "{found:?}");
}

#[test]
fn a_bad_mac_address_is_named_with_its_place_and_the_next_step() {
    let server = "address = \"172.17.100.1\"";
    for (mac, expected) in [
        ("rs1", "is no MAC address: write \"02:00:5e:10:00:01\""),
        ("+2:00:00:00:00:01", "is no MAC address"),
        ("02:00:00:00:00:01:02", "is no MAC address"),
        ("ff:ff:ff:ff:ff:ff", "not the MAC address of one machine"),
        ("00:00:00:00:00:00", "not the MAC address of one machine"),
    ] {
        let problems = problems_with(server, &format!("{server}\nmac = \"{mac}\""));
        let [problem] = &problems[..] else { panic!("{mac}: {problems:?}") };
        assert_eq!((problem.line, problem.column), (9, 7), "{mac}");
        assert!(problem.message.contains(expected), "{mac}: {}", problem.message);
    }
}

#[test]
fn a_real_server_of_several_services_has_one_mac_address() {
    let again = |mac: &str| {
        format!(
            "{SMALL}mac = \"02:00:00:00:00:01\"\n\
             [[virtual_service]]\naddress = \"172.17.100.100:81\"\nprotocol = \"tcp\"\n\
             [[virtual_service.real_server]]\naddress = \"172.17.100.1\"\n{mac}"
        )
    };
    for same in ["", "mac = \"02:00:00:00:00:01\""] {
        let config = parse(&again(same)).unwrap();
        assert_eq!(macs(&config.services), [([172, 17, 100, 1].into(), [2, 0, 0, 0, 0, 1])].into());
    }
    let problems = parse(&again("mac = \"02:00:00:00:00:02\"")).unwrap_err();
    let [problem] = &problems[..] else { panic!("{problems:?}") };
    assert_eq!((problem.line, problem.column), (15, 7));
    assert!(problem.message.contains("02:00:00:00:00:01 in line 9"), "{}", problem.message);
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::read(Path::new("/no/such/file.toml"), &stock_only).unwrap_err().to_string();
    assert!(error.contains("/no/such/file.toml") && error.contains("--config"), "{error}");
}

#[test]
fn a_wrong_file_is_named_with_line_and_column() {
    let path = std::env::temp_dir().join(format!("shunt-config-{}.toml", std::process::id()));
    std::fs::write(&path, "flows = 1\nflows_v6 = 1\n").unwrap();
    let error = Config::read(&path, &stock_only).unwrap_err().to_string();
    std::fs::remove_file(&path).unwrap();
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 3, "{error}");
    assert!(lines[0].starts_with(&format!("{}:1:1: no interface", path.display())), "{error}");
    assert!(lines[2].starts_with(&format!("{}:2:12: flows_v6", path.display())), "{error}");
}

#[test]
fn columns_count_characters_not_bytes() {
    let text = "timeouts = { \"ü\" = 1 }\n[[interface]]\nname = \"eth0\"\n";
    let problems = parse(text).unwrap_err();
    assert_eq!((problems[0].line, problems[0].column), (1, 14), "{problems:?}");
    let text =
        "api = { socket = \"/ü\" }\nmetrics = { listen = \"ü\" } \n[[interface]]\nname=\"e\"";
    let problems = parse(text).unwrap_err();
    assert_eq!((problems[0].line, problems[0].column), (2, 22), "{problems:?}");
}
