use super::*;

/// The configuration in the contract. It is the default.
const CONTRACT: &str = "
apiVersion: fencegate.dev/v1
kind: GateConfig
mode: enforce
evidence: { maxAge: 24h, clockSkew: 10s, sources: [annotations, cloud-shutdown] }
checks: {}                                 # any reason with a mode; has the last word
release: { guardedOwners: [{ group: apps, kind: StatefulSet }], guardClaims: true, countTolerating: false, auto: off, autoAfter: 2m }
place: { maxNodes: null, maxNotReady: null }
authorization: { attest: anyone }          # or rbac
watch: { enabled: false, forgottenAfter: 15m, stuckAfter: 5m }
doors: { nodes: off, pods: off, attachments: off }
";

#[test]
fn the_configuration_in_the_contract_is_the_default() {
    for empty in [CONTRACT, "# nothing\n", "{}", "evidence:\nchecks:\n", "doors:\n"] {
        let said = parse(empty.as_bytes()).unwrap();
        // What the file says about a door has precedence over the command line.
        let settings = Settings { doors: said.doors.or(Some(Mode::Off)), ..Settings::default() };
        assert_eq!(Settings { doors: settings.doors, ..said }, settings, "{empty:?}");
        assert!(Code::ALL.iter().all(|code| settings.mode(*code) == code.default_mode()), "{empty:?}");
    }
}

#[test]
fn a_door_that_the_file_leaves_out_has_the_mode_of_the_command_line() {
    let additions = Additions { doors: Some(Mode::Enforce), ..Additions::default() };
    let settings = additions.to(parse(b"doors: {pods: warn, attachments: off}").unwrap());
    assert_eq!(settings.mode(Code::UnfencedDeletion), Mode::Enforce);
    assert_eq!(settings.mode(Code::UnfencedForceDeletion), Mode::Warn);
    assert_eq!(settings.mode(Code::UnfencedDetach), Mode::Off);
    let checks = additions.to(parse(b"checks: {UnfencedDeletion: warn}").unwrap());
    assert_eq!(checks.mode(Code::UnfencedDeletion), Mode::Warn, "a check has the last word");
}

#[test]
fn every_setting_can_be_set() {
    let settings = parse(
        b"mode: warn
evidence: {maxAge: 1h30m, clockSkew: 0s, sources: [cloud-shutdown]}
checks: {NodeStillReady: off, PodsRemain: warn, NodeNotRecovered: enforce, StampForged: enforce}
release: {guardedOwners: [{kind: ReplicationController}], guardClaims: false, countTolerating: true,
  auto: rebooted, autoAfter: 90s}
place: {maxNodes: 30%, maxNotReady: 3}
authorization: {attest: rbac}
watch: {enabled: true, forgottenAfter: 1h, stuckAfter: 1m}",
    )
    .unwrap();
    assert_eq!(settings.mode, Mode::Warn);
    assert_eq!(settings.max_age, SignedDuration::from_mins(90));
    assert_eq!(settings.sources, [Source::CloudShutdown]);
    assert_eq!(settings.mode(Code::NodeStillReady), Mode::Off);
    assert_eq!(settings.mode(Code::PodsRemain), Mode::Warn);
    assert_eq!(settings.guarded_owners, [OwnerKind { group: String::new(), kind: "ReplicationController".into() }]);
    assert_eq!(settings.max_nodes, Some(NodeLimit::Percent(30)));
    assert_eq!(settings.max_not_ready, Some(NodeLimit::Count(3)));
    assert!(settings.attest_needs_rbac && settings.count_tolerating && !settings.guard_claims);
    let (forgotten_after, stuck_after) = (SignedDuration::from_hours(1), SignedDuration::from_mins(1));
    assert_eq!(settings.watch, Watch { enabled: true, forgotten_after, stuck_after });
    assert_eq!(settings.auto_release.when, AutoReleaseWhen::Rebooted);
    assert_eq!(settings.auto_release.after, SignedDuration::from_secs(90));
    assert_eq!(parse(b"release: {auto: off}").unwrap(), Settings::default());
    assert_eq!(parse(b"place: {maxNodes: 2}").unwrap().max_nodes, Some(NodeLimit::Count(2)));
    let all = parse(b"place: {maxNodes: \"100%\", maxNotReady: \"0%\"}").unwrap();
    assert_eq!(all.max_nodes, Some(NodeLimit::Percent(100)));
    assert_eq!(all.max_not_ready, Some(NodeLimit::Percent(0)));
}

#[test]
fn an_error_names_the_mistake() {
    for (text, named) in [
        ("evidense: {}", "evidense"),
        ("evidence: {maxage: 1h}", "maxage"),
        ("evidence: {maxAge: yesterday}", "evidence.maxAge"),
        ("evidence: {maxAge: -1h}", "evidence.maxAge"),
        ("evidence: {sources: [anotations]}", "evidence.sources"),
        ("evidence: {sources: []}", "evidence.sources"),
        ("evidence: {sources: [annotations, annotations]}", "evidence.sources"),
        ("checks: {NodeStillRedy: warn}", "checks.NodeStillRedy"),
        ("checks: {NodeStillReady: maybe}", "checks.NodeStillReady"),
        ("checks: {StampForged: off}", "checks.StampForged"),
        ("checks: {EvidenceFrozen: warn}", "checks.EvidenceFrozen"),
        ("checks: {FactsUnavailable: off}", "checks.FactsUnavailable"),
        ("checks: {ReviewMalformed: off}", "checks.ReviewMalformed"),
        ("release: {guardedOwners: [{group: apps}]}", "kind"),
        ("release: {guardClaims: 1}", "guardClaims"),
        ("place: {maxNodes: many}", "maxNodes"),
        ("place: {maxNodes: 101%}", "maxNodes"),
        ("place: {maxNodes: -1}", "maxNodes"),
        ("place: {maxNotReady: 101%}", "place.maxNotReady"),
        ("place: {maxNotReady: 1.5}", "maxNotReady"),
        ("place: {maxNotready: 1}", "maxNotready"),
        ("authorization: {attest: everyone}", "authorization.attest"),
        ("release: {auto: true}", "release.auto"),
        ("release: {auto: always}", "release.auto"),
        ("release: {autoAfter: -1s}", "release.autoAfter"),
        ("watch: {enabled: 1}", "enabled"),
        ("doors: {node: warn}", "node"),
        ("doors: {nodes: on}", "doors.nodes"),
        ("doors: {pods: true}", "doors.pods"),
        ("watch: {stuckAfter: soon}", "watch.stuckAfter"),
        ("watch: {forgottenAfter: 1}", "watch.forgottenAfter"),
        ("apiVersion: fencegate.dev/v2", "apiVersion"),
        ("kind: Pod", "kind"),
        ("mode: off", "mode"),
        ("checks: {PodsRemain: off, PodsRemain: enforce}", "PodsRemain"),
        ("a: [", ""),
    ] {
        let error = parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(named), "{text}: {error}");
    }
    assert!(parse(b"\xff").is_err());
    assert!(parse(b" \n").unwrap_err().to_string().contains("is empty"));
}
