use super::*;

fn name(text: &str) -> PluginName {
    text.parse().unwrap()
}

fn stored(number: u32, failed: bool) -> StoredVersion {
    StoredVersion {
        number,
        digest: format!("{number:064}"),
        label: None,
        size: 1,
        uploaded: 1,
        failed: failed.then(|| "it failed".to_owned()),
    }
}

/// A plugin with these versions, of which those in `bad` have failed.
fn with(plugin: &str, numbers: &[u32], current: u32, bad: &[u32]) -> Names {
    let versions: Vec<_> =
        numbers.iter().map(|number| stored(*number, bad.contains(number))).collect();
    let last = numbers.last().copied().unwrap_or(0);
    Names::from([(name(plugin), StoredPlugin { current, last, versions })])
}

fn chosen(names: &Names, scheduler: &str) -> Vec<u32> {
    choices(names, &scheduler.parse().unwrap()).iter().map(|version| version.number).collect()
}

#[test]
fn the_version_that_is_meant_comes_first_and_then_older_ones_that_work() {
    let names = with("my", &[1, 2, 3, 4], 3, &[2]);
    assert_eq!(chosen(&names, "my"), [3, 1]);
    assert_eq!(chosen(&names, "my@4"), [4, 3, 1]);
    assert_eq!(chosen(&names, "my@2"), [1], "what failed is not taken");
    assert_eq!(chosen(&names, "your"), [0; 0]);
    assert_eq!(chosen(&names, "rr"), [0]);
    assert_eq!(chosen(&with("rr", &[1, 2], 2, &[2]), "rr"), [1, 0], "the stock one is the last");
}

#[test]
fn a_failed_version_gives_way_to_the_newest_that_works() {
    let version = |number| PluginVersion { name: name("my"), number };
    let names = failed(&with("my", &[1, 2, 3], 3, &[2]), &version(3), "traps");
    assert_eq!(current(&names, &name("my")), Some(version(1)));
    assert_eq!(failure(&names, &version(3)), Some("traps"));
    let names = failed(&names, &version(1), "loops");
    assert_eq!(current(&names, &name("my")), Some(version(1)), "there is none to give way to");
    assert_eq!(chosen(&names, "my"), [0; 0]);
    let error = check(&names, &"my".parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("my@1 was rolled back (loops)"), "{error}");
    // One that is not the current one.
    let names = failed(&with("my", &[1, 2], 2, &[]), &version(1), "traps");
    assert_eq!(current(&names, &name("my")), Some(version(2)));
}

#[test]
fn an_operator_goes_back_to_any_version() {
    let names = with("my", &[1, 2, 3], 3, &[2]);
    let back = |names: &Names, to| rolled_back(names, &name("my"), to);
    let (names, version) = back(&names, None).unwrap();
    assert_eq!(version.number, 1);
    assert!(back(&names, None).unwrap_err().to_string().contains("no older version"));
    assert!(back(&names, Some(1)).unwrap_err().to_string().contains("already"));
    assert!(back(&names, Some(9)).unwrap_err().to_string().contains("my has my@1, my@2, my@3"));
    let (names, version) = back(&names, Some(2)).unwrap();
    assert_eq!((version.number, failure(&names, &version)), (2, None), "another chance");
    let unknown = rolled_back(&names, &name("your"), None).unwrap_err().to_string();
    assert!(unknown.contains("there is no plugin your; there are rr,"), "{unknown}");
}

#[test]
fn the_oldest_versions_go_but_not_those_that_are_needed() {
    let left = |names: Names| -> Vec<u32> {
        names[&name("my")].versions.iter().map(|version| version.number).collect()
    };
    let all = with("my", &[1, 2, 3, 4, 5], 5, &[]);
    assert_eq!(left(pruned(all.clone(), &name("my"), 9, |_| false)), [1, 2, 3, 4, 5]);
    assert_eq!(left(pruned(all.clone(), &name("my"), 3, |_| false)), [3, 4, 5]);
    assert_eq!(left(pruned(all.clone(), &name("my"), 3, |number| number == 2)), [2, 4, 5]);
    assert_eq!(left(pruned(all, &name("my"), 1, |_| false)), [4, 5], "one to go back to");
    let bad = with("my", &[1, 2, 3], 3, &[2]);
    assert_eq!(left(pruned(bad, &name("my"), 1, |_| false)), [1, 3]);
}

#[test]
fn the_current_version_goes_only_with_the_others() {
    let names = with("my", &[1, 2], 2, &[]);
    let remove = |number| removed(&names, &name("my"), number);
    assert!(remove(None).unwrap().is_empty());
    assert_eq!(chosen(&remove(Some(1)).unwrap(), "my"), [2]);
    assert!(remove(Some(2)).unwrap_err().to_string().contains("is the current version"));
    assert!(remove(Some(3)).unwrap_err().to_string().contains("there is no my@3"));
    let stock = |number| removed(&names, &name("rr"), number).unwrap_err().to_string();
    assert!(stock(None).contains("part of the program"));
    assert!(stock(Some(0)).contains("part of the program"));
    assert!(stock(Some(1)).contains("there is no rr@1"));
}

#[test]
fn an_upload_is_the_current_version_and_has_a_number_of_its_own() {
    let host = PluginHost::new(plugin_host::Limits::default()).unwrap();
    let plugin = host.stock("rr").unwrap();
    let (names, version) = uploaded(&Names::new(), &name("rr"), &plugin);
    assert_eq!((version.number, chosen(&names, "rr")), (1, vec![1, 0]));
    let (names, version) = uploaded(&with("my", &[1, 2, 7], 2, &[]), &name("my"), &plugin);
    assert_eq!((version.number, chosen(&names, "my")), (8, vec![8, 7, 2, 1]));
    let stored = names[&name("my")].version(8).unwrap();
    assert_eq!((stored.digest.as_str(), stored.size), (plugin.digest(), plugin.size()));
}

#[test]
fn there_is_room_for_so_many_names() {
    let name = |number: usize| -> PluginName { format!("p{number}").parse().unwrap() };
    let names: Names =
        (0..NAMES_MAX).map(|number| (name(number), StoredPlugin::default())).collect();
    check_room(&names, &name(0)).unwrap();
    let refused = check_room(&names, &name(NAMES_MAX)).unwrap_err().to_string();
    assert!(
        refused.contains("256 uploaded plugins") && refused.contains("remove one"),
        "{refused}"
    );
}
