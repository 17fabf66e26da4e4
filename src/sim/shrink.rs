//! Makes a failing run smaller: shorter, with fewer clients and fewer faults, as long as it still fails in the same way.

use super::Plan;

/// `way` is the way in which the plan that is given fails; `fails` says in which another one does, if at all.
pub fn shrink<Way: PartialEq>(plan: &Plan, way: &Way, mut fails: impl FnMut(&Plan) -> Option<Way>) -> Plan {
    // A smaller run that fails otherwise is another finding, and says nothing of this one.
    let mut shrinking = Shrinking { best: plan.clone(), fails: |plan: &Plan| fails(plan).as_ref() == Some(way) };
    loop {
        let before = shrinking.best.clone();
        for quarters in [1, 2, 3] {
            while shrinking.tries(|plan| plan.faulty_ms = plan.faulty_ms * quarters / 4) {}
        }
        while shrinking.tries(|plan| plan.clients = plan.clients.saturating_sub(1)) {}
        while shrinking.tries(|plan| plan.lessees = plan.lessees.saturating_sub(1)) {}
        while shrinking.tries(|plan| plan.watchers = plan.watchers.saturating_sub(1)) {}
        shrinking.tries(|plan| plan.changes = false);
        shrinking.tries(|plan| plan.ambushes = false);
        shrinking.leave_out_faults();
        if shrinking.best == before {
            return before;
        }
    }
}

struct Shrinking<F> {
    best: Plan,
    fails: F,
}

impl<F: FnMut(&Plan) -> bool> Shrinking<F> {
    /// Whether the best plan has become a smaller one.
    fn tries(&mut self, change: impl FnOnce(&mut Plan)) -> bool {
        let mut smaller = self.best.clone();
        change(&mut smaller);
        let fails = smaller != self.best && (self.fails)(&smaller);
        if fails {
            self.best = smaller;
        }
        fails
    }

    /// Leaves out as many faults as it can: halves of all, quarters, and so on to single ones.
    fn leave_out_faults(&mut self) {
        // No two of them are less than this apart.
        let last = self.best.faulty_ms / 100 + 1;
        self.tries(|plan| plan.omitted.retain(|number| *number < last));
        let mut size = last.div_ceil(2);
        loop {
            for from in (0..last).step_by(size as usize) {
                self.tries(|plan| plan.omitted.extend(from..(from + size).min(last)));
            }
            if size == 1 {
                return;
            }
            size = size.div_ceil(2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failure_does_not_need_is_left_out() {
        // With fewer clients it fails, too, but otherwise.
        let fails = |plan: &Plan| {
            let both = !plan.omitted.contains(&3) && !plan.omitted.contains(&11);
            let needs = both && plan.clients >= 2 && plan.faulty_ms >= 3_000;
            needs.then_some("lost").or((plan.clients < 2).then_some("idle"))
        };
        let plan = Plan { changes: true, ..Plan::default() };
        let mut runs = 0;
        let shrunk = shrink(&plan, &"lost", |plan| {
            runs += 1;
            fails(plan)
        });
        assert_eq!(fails(&shrunk), Some("lost"));
        assert_eq!((shrunk.clients, shrunk.lessees, shrunk.watchers), (2, 0, 0));
        assert!(!shrunk.changes && !shrunk.ambushes && shrunk.faulty_ms < 4_500, "{shrunk:?}");
        let kept: Vec<u64> = (0..=shrunk.faulty_ms / 100).filter(|number| !shrunk.omitted.contains(number)).collect();
        assert_eq!(kept, [3, 11]);
        assert!(runs < 1000, "{runs} runs");
    }

    #[test]
    fn a_failure_that_needs_nothing_shrinks_to_nothing() {
        let shrunk = shrink(&Plan::default(), &(), |_| Some(()));
        assert_eq!((shrunk.clients, shrunk.lessees, shrunk.watchers, shrunk.faulty_ms), (0, 0, 0, 0));
    }
}
