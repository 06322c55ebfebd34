//! The seed's network as an operator would have it: nginx on the real servers, curl on the client,
//! an nftables DNAT on the router.
//!
//! Needs nginx, curl and nft, so it runs with the feature `ci`.

mod common;

use common::{HTTP, PATIENCE, http_rr, shunt, wait_until_ready};
use lab::{
    Capture, Config, Content, Director, Family, MachineLock, Netns, Plan, Process, ROUTER_OUTSIDE,
    SeenFrame, Topology, run_with_input,
};
use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Bytes of the large bodies.
const LARGE: usize = 100_000_000;
/// Requests.
const REQUESTS: usize = 200;
/// What the client addresses, as in the seed.
const URL: &str = "http://192.168.100.253";

/// The network, dropped in this order.
struct Site {
    director: Director,
    nginx: Vec<Process>,
    topology: Topology,
    _lock: MachineLock,
}

impl Site {
    fn build() -> Site {
        let lock = MachineLock::acquire().unwrap();
        let topology = Plan::new("seed").build().unwrap();
        let nat = "table ip seed {
            chain prerouting {
                type nat hook prerouting priority dstnat;
                iifname \"eth1\" ip daddr 192.168.100.253 tcp dport 80 dnat to 172.17.100.100:80
            }
        }";
        assert_eq!(ROUTER_OUTSIDE, "eth1");
        run_with_input(topology.router.command("nft").args(["-f", "-"]), nat).unwrap();
        let large = content();
        let nginx = [1, 2].map(|number| start_nginx(&topology, number, &large)).into();
        let config = Config::of(vec![http_rr(2)]);
        let director = Director::start(&topology, shunt(), &config).unwrap();
        wait_until_ready(&director, &config);
        Site { director, nginx, topology, _lock: lock }
    }

    fn curl(&self, arguments: &[&str]) -> String {
        let mut curl = self.topology.client.command("curl");
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "60"]).args(arguments);
        lab::run(&mut curl).unwrap()
    }

    fn files(&self, number: u8) -> PathBuf {
        files(&self.topology, number)
    }
}

fn files(topology: &Topology, number: u8) -> PathBuf {
    topology.files.path().join(format!("rs{number}"))
}

fn content() -> Vec<u8> {
    let content = Content::default();
    let mut large = Vec::with_capacity(LARGE);
    while large.len() < LARGE {
        large.extend_from_slice(content.from(large.len() as u64, (LARGE - large.len()) as u64));
    }
    large
}

/// nginx with nothing outside the test's own directory.
fn start_nginx(topology: &Topology, number: u8, large: &[u8]) -> Process {
    let netns: &Netns = topology.real_server(number);
    let directory = files(topology, number);
    fs::create_dir(&directory).unwrap();
    fs::create_dir(directory.join("files")).unwrap();
    fs::write(directory.join("files/large"), large).unwrap();
    let at = directory.display();
    let config = format!(
        "daemon off; master_process off; user root; pid {at}/pid; error_log stderr;
         events {{ worker_connections 512; }}
         http {{
           access_log {at}/access.log;
           client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;
           fastcgi_temp_path {at}/fastcgi; uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;
           server {{
             listen {HTTP};
             client_max_body_size 200m;
             location = / {{ return 200 \"rs{number} $remote_addr\\n\"; }}
             location /files/ {{ root {at}; dav_methods PUT; }}
           }}
         }}"
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, config).unwrap();
    let mut command = netns.command("nginx");
    command.args(["-e", "stderr", "-c"]).arg(&file);
    let nginx = Process::start(command).unwrap();
    let listens = || netns.exec("ss -Hltn sport = :80").is_ok_and(|lines| !lines.is_empty());
    nginx.wait_until(PATIENCE, "nginx listens", listens).unwrap();
    nginx
}

#[test]
fn requests_alternate_and_only_mac_addresses_change() {
    let site = Site::build();
    let switch = &site.topology.switch;
    let captures = ["director", "rs1", "rs2"].map(|port| Capture::start(switch, port).unwrap());

    let client = lab::client_address(Family::V4);
    let answers: Vec<String> = (0..REQUESTS).map(|_| site.curl(&[URL]).trim().to_owned()).collect();
    let (first, second) = (&answers[0], &answers[1]);
    assert_ne!(first, second);
    for (number, pair) in answers.chunks(2).enumerate() {
        assert_eq!((&pair[0], &pair[1]), (first, second), "requests {} on", 2 * number);
    }
    for number in [1, 2] {
        let as_seen = format!("rs{number} {client}");
        assert_eq!(answers.iter().filter(|answer| **answer == as_seen).count(), REQUESTS / 2);
    }

    let [director, rs1, rs2] = captures.map(Capture::finish);
    let to_director = frames_to(&director, lab::director_mac());
    check_forwarding(&to_director, &[rs1, rs2]);
    let replies: Vec<&SeenFrame> = director
        .iter()
        .filter(|frame| ipv4(frame).is_some_and(|(from, _)| from == vip()))
        .collect();
    assert!(replies.is_empty(), "replies pass the director: {replies:?}");
}

/// Every frame that came to the director for the VIP left it for one of the real servers, with
/// nothing changed but the MAC addresses, and nothing else did.
fn check_forwarding(to_director: &[&SeenFrame], to_servers: &[Vec<SeenFrame>; 2]) {
    let mut arrived: BTreeMap<&[u8], i64> = BTreeMap::new();
    for frame in to_director {
        // Time to live, addresses and checksums are all in what is compared.
        assert_eq!(ipv4(frame).map(|(from, _)| from), Some(lab::client_address(Family::V4)));
        *arrived.entry(frame.rest()).or_default() += 1;
    }
    assert!(to_director.len() > 4 * REQUESTS, "{} frames are too few", to_director.len());
    for (number, frames) in (1..).zip(to_servers) {
        let forwarded = frames_to(frames, lab::real_server_mac(number));
        assert!(forwarded.len() > REQUESTS, "{} frames to rs{number}", forwarded.len());
        for frame in forwarded {
            assert_eq!(frame.source(), lab::director_mac());
            *arrived.entry(frame.rest()).or_default() -= 1;
        }
    }
    let differing: Vec<_> = arrived.iter().filter(|(_, count)| **count != 0).collect();
    assert!(differing.is_empty(), "changed, lost or doubled on the way: {differing:?}");
}

/// The frames for the VIP that a port of the switch sent to this MAC address.
fn frames_to(frames: &[SeenFrame], mac: [u8; 6]) -> Vec<&SeenFrame> {
    frames
        .iter()
        .filter(|frame| frame.outgoing && frame.destination() == mac)
        .filter(|frame| ipv4(frame).is_some_and(|(_, to)| to == vip()))
        .collect()
}

fn vip() -> IpAddr {
    lab::vip(Family::V4)
}

/// Source and destination of an IPv4 packet.
fn ipv4(frame: &SeenFrame) -> Option<(IpAddr, IpAddr)> {
    let address = |at: usize| -> Option<IpAddr> {
        Some(IpAddr::from(<[u8; 4]>::try_from(frame.bytes.get(at..at + 4)?).ok()?))
    };
    (frame.bytes.get(12..14)? == [8, 0]).then(|| Some((address(26)?, address(30)?)))?
}

#[test]
fn large_bodies_arrive_intact_in_both_directions() {
    let site = Site::build();
    let content = Content::default();
    let check = |file: &Path| {
        let bytes = fs::read(file).unwrap();
        assert_eq!(bytes.len(), LARGE, "{}", file.display());
        assert_eq!(content.first_difference(0, &bytes), None, "{}", file.display());
    };
    let downloaded = site.topology.files.path().join("downloaded");
    // Twice, so that each real server has its turn.
    for turn in 0..2 {
        let url = format!("{URL}/files/large");
        site.curl(&["--output", downloaded.to_str().unwrap(), &url]);
        check(&downloaded);
        let url = format!("{URL}/files/uploaded{turn}");
        site.curl(&["--upload-file", downloaded.to_str().unwrap(), &url]);
    }
    let mut uploaded = 0;
    for number in [1, 2] {
        for turn in 0..2 {
            let file = site.files(number).join(format!("files/uploaded{turn}"));
            if file.exists() {
                check(&file);
                uploaded += 1;
            }
        }
    }
    assert_eq!(uploaded, 2);
    assert!(site.nginx.iter().all(|nginx| nginx.ended().is_none()));
    assert!(site.director.process().ended().is_none());
}
