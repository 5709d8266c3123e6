//! Liveness: from every state in which the fence is true, an operator who follows the documented
//! order gets the service back.
//!
//! The operator does nothing clever: he records the fence, places the taint, waits, switches the
//! machine on again and takes the taint off. Meanwhile the controllers run, and nothing else
//! happens.

use fencegate::policy::evidence::Method;

use crate::{
    action::{Event, boot, report},
    gate::{Actor, Gate},
    world::{Attachment, Effect, Pod, TICK, World},
    write::{Answer, Intent, send},
};

/// Half an hour: longer than the gate makes anybody wait.
const STEPS: usize = 60;

/// Whether the machine can do no more harm, and stays so.
pub fn is_fenced(world: &World) -> bool {
    world.node.is_some() && (!world.machine.powered || world.machine.isolated)
}

/// Plays the procedure from here to its end.
///
/// # Errors
/// The last denial, if the service is not back after half an hour.
pub fn rescue(gate: &Gate, start: &World) -> Result<(), String> {
    let mut world = start.clone();
    // Who hangs or is refused stays so, and the network stays cut: the harder case.
    world.machine.connected = false;
    let method = if world.machine.powered { Method::StorageIsolation } else { Method::PowerOff };
    let mut denial = "nothing was denied".to_owned();
    for _ in 0..STEPS {
        settle(&mut world);
        if world.node.is_none() {
            return Ok(());
        }
        let is_free = world.pod == Pod::Gone && world.attachment == Attachment::Gone;
        let intent = match (world.is_out_of_service(), is_free) {
            (false, _) => Intent::AttestAndPlace(method),
            (true, true) => {
                restart(&mut world);
                Intent::Release
            }
            // Nothing that `NoSchedule` leaves alone is evicted.
            (true, false) if world.pod == Pod::Bound => Intent::Amend(Effect::NoExecute),
            (true, false) => {
                world.now += TICK;
                continue;
            }
        };
        match send(gate, &world, Actor::Alice, intent, (0, 0)) {
            Some(Answer::Stored(next)) => {
                world = *next;
                if !world.is_out_of_service() {
                    return Ok(());
                }
            }
            Some(Answer::Denied(why)) => denial = why,
            None => denial = format!("{intent:?} changes nothing"),
        }
        world.now += TICK;
    }
    Err(denial)
}

/// The controllers do what they can.
fn settle(world: &mut World) {
    while let Some(next) = Event::CONTROLLERS.iter().find_map(|event| event.happen(world)) {
        *world = next;
    }
}

/// The machine is switched on again, in a new boot, with everything connected.
fn restart(world: &mut World) {
    boot(world);
    world.machine.connected = true;
    world.machine.isolated = false;
    report(world);
}
