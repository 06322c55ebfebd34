//! Checks beside what other programs do: `https` against nginx, `udp` behind a firewall. Needs nginx
//! and nft, so it runs with the feature `ci`.

mod common;

use common::{DNS, PATIENCE, http_rr, list, service, shunt, wait_for_list};
use lab::{
    Config, Director, Family, MachineLock, Plan, Process, Topology, UdpEcho, director_address,
    real_server_address,
};
use rcgen::{CertificateParams, CertifiedIssuer, DnType, KeyPair, date_time_ymd};
use std::fs;
use std::path::PathBuf;

/// nginx on both real servers, dropped before their network.
struct Site {
    nginx: Vec<Process>,
    topology: Topology,
    issuer: CertifiedIssuer<'static, KeyPair>,
    _lock: MachineLock,
}

impl Site {
    fn build() -> Site {
        let lock = MachineLock::acquire().unwrap();
        let topology = Plan::new("https").build().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "authority of the test");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut site = Site { nginx: Vec::new(), topology, issuer, _lock: lock };
        fs::write(site.ca(), site.issuer.pem()).unwrap();
        for number in [1, 2] {
            let nginx = site.start_nginx(number);
            site.nginx.push(nginx);
        }
        site
    }

    fn ca(&self) -> PathBuf {
        self.topology.files.path().join("ca.pem")
    }

    fn files(&self, number: u8) -> PathBuf {
        self.topology.files.path().join(format!("rs{number}"))
    }

    /// Gives a server a certificate for its address that ends with `year`.
    fn certify(&self, number: u8, year: i32) {
        let names = vec![real_server_address(number, Family::V4).to_string()];
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = date_time_ymd(year, 12, 31);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.files(number).join("cert.pem"), certificate.pem()).unwrap();
        fs::write(self.files(number).join("key.pem"), key.serialize_pem()).unwrap();
    }

    /// nginx with nothing outside the test's own directory.
    fn start_nginx(&self, number: u8) -> Process {
        let netns = self.topology.real_server(number);
        fs::create_dir(self.files(number)).unwrap();
        self.certify(number, 2999);
        let at = self.files(number).display().to_string();
        let config = format!(
            "daemon off; user root; pid {at}/pid; error_log stderr;
             events {{ worker_connections 64; }}
             http {{
               log_format checks '$server_port $request $http_user_agent $status';
               access_log {at}/access.log checks;
               client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;
               fastcgi_temp_path {at}/fastcgi; uwsgi_temp_path {at}/uwsgi;
               scgi_temp_path {at}/scgi;
               server {{
                 listen 443 ssl;
                 ssl_certificate {at}/cert.pem; ssl_certificate_key {at}/key.pem;
                 location = /health {{ root {at}; try_files /health =503; }}
               }}
             }}"
        );
        fs::write(self.files(number).join("health"), "all is well\n").unwrap();
        let file = self.files(number).join("nginx.conf");
        fs::write(&file, config).unwrap();
        let mut command = netns.command("nginx");
        command.args(["-e", "stderr", "-c"]).arg(&file);
        let nginx = Process::start(command).unwrap();
        let listens = || netns.exec("ss -Hltn sport = :443").is_ok_and(|lines| !lines.is_empty());
        nginx.wait_until(PATIENCE, "nginx listens", listens).unwrap();
        nginx
    }

    fn config(&self) -> Config {
        let service = http_rr(2).with(&format!(
            "[virtual_service.health_check]\nkind = \"https\"\nport = 443\npath = \"/health\"\n\
             body = \"^all is well$\"\ninterval = 0.2\nfall = 4\nca = \"{}\"",
            self.ca().display()
        ));
        Config::of(vec![service])
    }
}

fn wait_for(director: &Director, number: u8, wanted: Result<(), &str>) {
    let until = format!("rs{number} is {wanted:?}");
    let address = real_server_address(number, Family::V4);
    wait_for_list(director, &until, |services| {
        let server = services[0].servers.iter().find(|server| server.address == address);
        let Some(health) = server.and_then(|server| server.health.as_ref()) else { return false };
        let error = health.error.as_deref().unwrap_or_default();
        match wanted {
            Ok(()) => health.state == "up",
            Err(wanted) => health.state == "down" && error.contains(wanted),
        }
    });
}

#[test]
fn nginx_is_asked_by_tls_and_its_certificate_and_answers_count() {
    let site = Site::build();
    let director = Director::start(&site.topology, shunt(), &site.config()).unwrap();
    wait_for(&director, 1, Ok(()));
    wait_for(&director, 2, Ok(()));

    fs::rename(site.files(2).join("health"), site.files(2).join("ill")).unwrap();
    wait_for(&director, 2, Err("GET https://172.17.100.2:443/health: status 503"));
    fs::rename(site.files(2).join("ill"), site.files(2).join("health")).unwrap();
    wait_for(&director, 2, Ok(()));

    site.certify(2, 2001);
    site.nginx[1].signal(nix::sys::signal::Signal::SIGHUP).unwrap();
    wait_for(&director, 2, Err("TLS with 172.17.100.2:443: invalid peer certificate: certificate"));
    site.certify(2, 2999);
    site.nginx[1].signal(nix::sys::signal::Signal::SIGHUP).unwrap();
    wait_for(&director, 2, Ok(()));
    wait_for(&director, 1, Ok(()));

    // The director closes first, TLS or not: no server keeps what was asked of it.
    let left = site.topology.real_server(1).exec("ss -Htn state time-wait").unwrap();
    let asked = format!("{}:", director_address(Family::V4));
    assert!(!left.contains(&asked), "{left}");

    let log = fs::read_to_string(site.files(1).join("access.log")).unwrap();
    let expected = format!("443 GET /health HTTP/1.1 shunt/{} 200", env!("CARGO_PKG_VERSION"));
    assert!(log.contains(&expected), "{log}");
    assert!(list(&director).is_some());
}

#[test]
fn what_a_firewall_of_the_directors_own_refuses_says_nothing_of_the_servers() {
    let site = common::Site::without_servers(Plan::new("check-firewall"), &[Family::V4]);
    let _echoes = [1, 2].map(|number| {
        let address = (real_server_address(number, Family::V4), DNS).into();
        UdpEcho::start(site.topology.real_server(number), "echo", address).unwrap()
    });
    let check = "[virtual_service.health_check]\nkind = \"udp\"\nexpect = \"echo\"\ninterval = 0.1";
    let config = Config::of(vec![service("udp", Family::V4, "rr", 2).with(check)]);
    let director = Director::start(&site.topology, shunt(), &config).unwrap();
    wait_for(&director, 1, Ok(()));
    wait_for(&director, 2, Ok(()));
    let nft = |words: &str| site.topology.director.exec(&format!("nft {words}")).unwrap();
    nft("add table ip own");
    nft("add chain ip own out { type filter hook output priority 0 ; }");
    nft("add rule ip own out udp dport 53 drop");
    let said = |words: &str| {
        let said = || director.process().output().contains(words);
        director.process().wait_until(PATIENCE, words, said).unwrap();
    };
    said("datagram to 172.17.100.");
    said("permission denied; it stays up until it can be");
    nft("delete table ip own");
    said("the real servers of udp:172.17.100.100:53 can be checked again");
    assert!(!director.process().output().contains("is down"), "{}", director.process().output());
}
