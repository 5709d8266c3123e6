//! Whether the gate's configuration and its registration are in the same mode (contract section 8).
//! A gate that enforces behind a webhook that is ignored, or the other way round, is a mistake.

use crate::{
    cluster::{
        Live,
        inspection::{Bound, Registered},
    },
    policy::{reason::Mode, review::Webhook, settings::Settings},
};

/// The policy and its binding.
const POLICY: &str = "fencegate";

/// The objects that are not in the mode of the configuration, or are not there.
///
/// # Errors
/// Why one of them could not be read, as one line for people.
pub(super) async fn mismatches(live: &Live, settings: &Settings) -> Result<Vec<&'static str>, String> {
    let [mutating, validating] = Webhook::ALL;
    let (mutating, validating, bound) =
        tokio::join!(live.registered(mutating), live.registered(validating), live.bound(POLICY));
    let all = [
        ("MutatingWebhookConfiguration", of_webhook(mutating?.as_ref())),
        ("ValidatingWebhookConfiguration", of_webhook(validating?.as_ref())),
        ("ValidatingAdmissionPolicyBinding", of_binding(&bound?)),
    ];
    let differs = |(_, mode): &(_, Option<Mode>)| *mode != Some(settings.mode);
    Ok(all.into_iter().filter(differs).map(|(object, _)| object).collect())
}

fn of_webhook(registered: Option<&Registered>) -> Option<Mode> {
    registered.map(|webhook| if webhook.failure_policy == "Ignore" { Mode::Warn } else { Mode::Enforce })
}

fn of_binding(bound: &Bound) -> Option<Mode> {
    let denies = bound.actions.as_ref().filter(|_| bound.has_policy)?.iter().any(|action| action == "Deny");
    Some(if denies { Mode::Enforce } else { Mode::Warn })
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn the_mode_of_an_object_is_what_it_does_to_a_write() {
        let webhook = |policy: &str| from_value::<Registered>(json!({"failurePolicy": policy})).unwrap();
        assert_eq!(of_webhook(Some(&webhook("Fail"))), Some(Mode::Enforce));
        assert_eq!(of_webhook(Some(&webhook("Ignore"))), Some(Mode::Warn));
        assert_eq!(of_webhook(None), None);
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
