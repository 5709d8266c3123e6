//! Whether the gate's configuration and its registration are in the same mode (contract section 8).
//! A gate that enforces behind a webhook that is ignored, or the other way round, is a mistake. So
//! is a door that does not send what the configuration guards.

use crate::{
    cluster::{
        Live,
        inspection::{Bound, Registered},
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
    let doors = validating.into_iter().filter(|entry| entry.door().is_some() && !suits(entry, settings));
    Ok(objects.chain(doors.map(|door| door.name)).collect())
}

/// Whether the entry of another door is as the configuration needs it. A door may warn while the
/// gate enforces, and is ignored then if the gate is down.
fn suits(door: &Registered, settings: &Settings) -> bool {
    (settings.mode != Mode::Warn || of_webhook(door) == Mode::Warn)
        && settings.guarded_owners.iter().all(|owner| door.sends_pods_of(owner))
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

    fn entry(name: &str, policy: &str, condition: &str) -> Registered {
        let conditions = json!([{"name": "c", "expression": condition}]);
        from_value(json!({"name": name, "failurePolicy": policy, "matchConditions": conditions})).unwrap()
    }

    #[test]
    fn a_door_never_fails_where_the_gate_warns_and_sends_every_kind_that_is_guarded() {
        let (enforce, warn) = (Settings::default(), Settings { mode: Mode::Warn, ..Settings::default() });
        let door = |policy: &str| entry("nodes.fencegate.dev", policy, "true");
        assert!(suits(&door("Fail"), &enforce) && suits(&door("Ignore"), &enforce) && suits(&door("Ignore"), &warn));
        assert!(!suits(&door("Fail"), &warn));
        let pods = |condition: &str| entry("pods.fencegate.dev", "Fail", condition);
        assert!(suits(&pods("[['apps', 'StatefulSet']].exists(g, true)"), &enforce));
        assert!(suits(&pods("[[\"\",\"X\"],\n  [\"apps\",\"StatefulSet\"]].exists(g, true)"), &enforce));
        assert!(!suits(&pods("[['apps', 'Deployment']].exists(g, true)"), &enforce));
        let none = Settings { guarded_owners: Vec::new(), ..Settings::default() };
        assert!(suits(&pods("[].exists(g, true)"), &none));
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
