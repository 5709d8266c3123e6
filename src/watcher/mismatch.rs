//! Whether the gate's configuration and its registration are in the same mode (contract section 8).
//! A gate that enforces behind a webhook that is ignored, or the other way round, is a mistake. So
//! is a door that does not send what the configuration guards.

use crate::{
    cluster::{
        Live,
        inspection::{Bound, Registered},
        registration::DOORS,
    },
    policy::{reason::Mode, review::Webhook, settings::Settings},
};

/// The policy and its binding.
const POLICY: &str = "fencegate";

/// The objects that are not as the configuration needs them, or are not there. Of the other doors,
/// the entries.
///
/// # Errors
/// Why one of them could not be read, as one line for people.
pub(super) async fn mismatches(live: &Live, settings: &Settings) -> Result<Vec<String>, String> {
    let [mutating, validating] = Webhook::ALL;
    let (mutating, validating, bound) =
        tokio::join!(live.registered(mutating), live.registered(validating), live.bound(POLICY));
    let (mutating, validating) = (mutating?, validating?);
    let all = [
        ("MutatingWebhookConfiguration", of_guard(&mutating)),
        ("ValidatingWebhookConfiguration", of_guard(&validating)),
        ("ValidatingAdmissionPolicyBinding", of_binding(&bound?)),
    ];
    let differs = |(_, mode): &(_, Option<Mode>)| *mode != Some(settings.mode);
    let objects = all.into_iter().filter(differs).map(|(object, _)| object.to_owned());
    Ok(objects.chain(of_doors(&validating, settings)).collect())
}

/// The other doors whose entry is not as the configuration needs it: it is missing, or sends what
/// nobody judges.
fn of_doors(registered: &[Registered], settings: &Settings) -> Vec<String> {
    let doors = DOORS.into_iter().map(|(name, code)| (name, settings.mode(code)));
    let differs = |(name, mode): &(&str, Mode)| match registered.iter().find(|entry| entry.name == *name) {
        None => *mode != Mode::Off,
        Some(entry) => !suits(entry, *mode, settings),
    };
    doors.filter(differs).map(|(name, _)| name.to_owned()).collect()
}

/// Whether the entry of another door, which is in this mode, is as the configuration needs it. A
/// gate that is down may stop what a door that only warns sends, unless the whole gate only warns.
fn suits(entry: &Registered, door: Mode, settings: &Settings) -> bool {
    let is_in_mode = match door {
        Mode::Off => false,
        Mode::Warn => settings.mode == Mode::Enforce || of_webhook(entry) == Mode::Warn,
        Mode::Enforce => of_webhook(entry) == Mode::Enforce,
    };
    is_in_mode && settings.guarded_owners.iter().all(|owner| entry.sends_pods_of(owner))
}

fn of_guard(registered: &[Registered]) -> Option<Mode> {
    registered.iter().find(|entry| entry.door().is_none()).map(of_webhook)
}

fn of_webhook(registered: &Registered) -> Mode {
    if registered.failure_policy == "Ignore" { Mode::Warn } else { Mode::Enforce }
}

fn of_binding(bound: &Bound) -> Option<Mode> {
    let denies = bound.actions.as_ref().filter(|_| bound.has_policy)?.iter().any(|action| action == "Deny");
    Some(if denies { Mode::Enforce } else { Mode::Warn })
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;
    use crate::policy::settings::Doors;

    fn entry(name: &str, policy: &str, condition: &str) -> Registered {
        let conditions = json!([{"name": "c", "expression": condition}]);
        from_value(json!({"name": name, "failurePolicy": policy, "matchConditions": conditions})).unwrap()
    }

    #[test]
    fn a_door_is_registered_as_it_is_configured_and_sends_every_kind_that_is_guarded() {
        let of = |mode, nodes, registered: &[Registered]| {
            let doors = Doors { nodes, ..Doors::default() };
            of_doors(registered, &Settings { mode, doors, ..Settings::default() })
        };
        let (missing, fails, ignored) = (
            &[][..],
            &[entry("nodes.fencegate.dev", "Fail", "true")][..],
            &[entry("nodes.fencegate.dev", "Ignore", "true")][..],
        );
        for (mode, door, registered, suits) in [
            (Mode::Enforce, None, missing, true),
            (Mode::Enforce, Some(Mode::Off), fails, false),
            (Mode::Enforce, Some(Mode::Enforce), missing, false),
            (Mode::Enforce, Some(Mode::Enforce), fails, true),
            (Mode::Enforce, Some(Mode::Enforce), ignored, false),
            (Mode::Enforce, Some(Mode::Warn), missing, false),
            (Mode::Enforce, Some(Mode::Warn), fails, true),
            (Mode::Enforce, Some(Mode::Warn), ignored, true),
            (Mode::Warn, Some(Mode::Enforce), fails, false),
            (Mode::Warn, Some(Mode::Enforce), ignored, true),
        ] {
            assert_eq!(of(mode, door, registered).is_empty(), suits, "{mode:?} {door:?} {registered:?}");
        }
        let owners = |condition: &str, settings: &Settings| {
            suits(&entry("pods.fencegate.dev", "Fail", condition), Mode::Enforce, settings)
        };
        let default = Settings::default();
        assert!(owners("[['apps', 'StatefulSet']].exists(g, true)", &default));
        assert!(owners("[[\"\",\"X\"],\n  [\"apps\",\"StatefulSet\"]].exists(g, true)", &default));
        assert!(!owners("[['apps', 'Deployment']].exists(g, true)", &default));
        assert!(owners("[].exists(g, true)", &Settings { guarded_owners: Vec::new(), ..Settings::default() }));
    }

    #[test]
    fn the_mode_of_an_object_is_what_it_does_to_a_write() {
        let webhook = |policy: &str| entry("out-of-service.fencegate.dev", policy, "true");
        let door = |name: &str, policy: &str| entry(&format!("{name}.fencegate.dev"), policy, "true");
        assert_eq!(of_guard(&[door("pods", "Ignore"), webhook("Fail")]), Some(Mode::Enforce));
        assert_eq!(of_guard(&[webhook("Ignore")]), Some(Mode::Warn));
        assert_eq!(of_guard(&[door("pods", "Fail")]), None);
        let bound = |has_policy, actions: Option<&[&str]>| Bound {
            has_policy,
            actions: actions.map(|actions| actions.iter().map(|action| (*action).to_owned()).collect()),
        };
        assert_eq!(of_binding(&bound(true, Some(&["Deny", "Audit"]))), Some(Mode::Enforce));
        assert_eq!(of_binding(&bound(true, Some(&["Warn", "Audit"]))), Some(Mode::Warn));
        assert_eq!(of_binding(&bound(true, None)), None);
        assert_eq!(of_binding(&bound(false, Some(&["Deny"]))), None, "a binding without its policy does nothing");
    }
}
