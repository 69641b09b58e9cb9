//! Fleets: several workers over one world at the same time, who come late, die, freeze, wake up, lose answers and are stopped,
//! while shards split and merge. Then peace: one worker without a fault, which must take over what the others left and end.
//!
//! Owns: drawing fleets. Does not own: worlds and single faults (swarm), the rules (store, oracle).

use std::time::Duration;

use crate::plan::{ALONE, FLEET, OPS, Plan, Rng, Swarm};
use crate::sim::Script;
use crate::swarm::{Arena, Failure, Life, Survived};

impl Arena {
    /// The fleet of a seed, in chaos and then in peace.
    pub fn survive_fleet(&self, seed: u64) -> Result<Survived, Box<Failure>> {
        // Other worlds than those of single workers of the same number.
        let mut rng = Rng(seed ^ 0xF1EE_7000_0000_0000);
        let mut life = Life::draw(self, seed, &mut rng);
        let failover = Duration::from_millis(500 + rng.below(3_000));
        life.sim.failover = Some(failover);
        life.drawn.push(format!("failover {failover:?}"));
        for _ in 0..1 + rng.below(2) {
            life.fleet(&mut rng)?;
            life.more();
        }
        life.peace()?;
        Ok(life.survived)
    }
}

impl Life {
    fn fleet(&mut self, rng: &mut Rng) -> Result<(), Box<Failure>> {
        let count = 2 + rng.below(2);
        let mut workers: Vec<(Duration, Plan, Script)> = Vec::new();
        for number in 0..count {
            let after = Duration::from_millis(if number == 0 { 0 } else { rng.below(6_000) });
            let freezes = rng.below(3) == 0;
            let mut plan = self.chaos(freezes);
            match rng.below(8) {
                // Some live undisturbed: what the others do must not harm them.
                0 | 1 => plan.swarm = None,
                2..5 => {
                    let focus = Some(OPS[ALONE + rng.below((FLEET - ALONE) as u64) as usize]);
                    plan.swarm = plan.swarm.map(|swarm| Swarm { focus, ..swarm });
                }
                _ => {}
            }
            self.drawn.push(format!("worker {number} starts after {after:?}"));
            workers.push((after, plan, self.beside(true)));
        }
        for (number, ran) in self.sim.run_many(workers).into_iter().enumerate() {
            self.took_part(&format!("worker {number} of {count}"), ran)?;
        }
        Ok(())
    }
}
