use super::Overflow;
use histories::{Model, full_history, play_model};
use proptest::prelude::*;
use shunt_sdk::testing::Host;
use shunt_sdk::{Flow, Server};

#[path = "../../sdk/tests/histories/mod.rs"]
mod histories;

fn host(servers: &[(u32, u32)]) -> Host<Overflow> {
    histories::host(servers)
}

#[test]
fn the_greatest_weight_is_filled_first() {
    assert_eq!(host(&[(3, 0), (5, 4), (5, 0)]).choose(&Flow::default()), Some(1));
    // As in the kernel, one flow more than the weight.
    assert_eq!(host(&[(3, 0), (5, 5), (5, 0)]).choose(&Flow::default()), Some(1));
    assert_eq!(host(&[(3, 0), (5, 6), (5, 0)]).choose(&Flow::default()), Some(2));
    assert_eq!(host(&[(3, 0), (5, 6), (5, 6)]).choose(&Flow::default()), Some(0));
}

#[test]
fn nobody_is_chosen_when_all_have_overflown() {
    let mut host = host(&[(3, 4), (5, 6)]);
    assert_eq!(host.choose(&Flow::default()), None);
    host.set_load(0, 3, 99);
    assert_eq!(host.choose(&Flow::default()), Some(0));
}

#[test]
fn nobody_is_chosen_when_nobody_takes_new_flows() {
    assert_eq!(host(&[]).choose(&Flow::default()), None);
    assert_eq!(host(&[(0, 0), (0, 0)]).choose(&Flow::default()), None);
}

struct Loop;

impl Model for Loop {
    fn choose(&mut self, servers: &[Server], _: &Flow) -> Option<usize> {
        let mut best: Option<(u32, usize)> = None;
        for (slot, server) in servers.iter().enumerate() {
            let Server { weight, active, .. } = *server;
            if weight == 0 || active > weight {
                continue;
            }
            if best.is_none_or(|(best, _)| weight > best) {
                best = Some((weight, slot));
            }
        }
        best.map(|(_, slot)| slot)
    }
}

proptest! {
    #[test]
    fn it_chooses_as_the_model_does(history in full_history()) {
        let mut host = Host::<Overflow>::new(0, 1);
        prop_assert_eq!(host.play(&history), play_model(&mut Loop, &history));
    }
}
