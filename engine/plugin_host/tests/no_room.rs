//! Too many instances. Alone in its file, since the limit is the whole process's.

mod common;

use common::*;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use plugin_host::Error;
use plugin_host::Params;

#[test]
fn an_instance_too_many_is_an_error_and_the_others_go_on() {
    let plugin = host().stock("rr").unwrap();
    // A limit that is not reached: nothing of this process is near 64 GiB.
    let (_, hard) = getrlimit(Resource::RLIMIT_AS).unwrap();
    setrlimit(Resource::RLIMIT_AS, 64 << 30, hard).unwrap();

    let mut instances = Vec::new();
    let error = loop {
        match plugin.scheduler(ALONE, &Params::new()) {
            Ok((scheduler, _)) => instances.push(scheduler),
            Err(error) => break error,
        }
        assert!(instances.len() < 20, "64 GiB hold no 20 instances of 4.1 GiB");
    };
    assert!(matches!(&error, Error::Instantiate { plugin, .. } if plugin == "rr"), "{error:?}");
    assert!(error.to_string().contains("ulimit -v"), "{error}");

    assert!(instances.len() > 5);
    for scheduler in &mut instances {
        scheduler.servers_changed(&candidates(&[1, 1]), 0).unwrap();
        assert_eq!([scheduler.choose(&FLOW, 0), scheduler.choose(&FLOW, 0)], [Ok(0), Ok(1)]);
    }
    instances.pop();
    plugin.scheduler(ALONE, &Params::new()).unwrap();
}
