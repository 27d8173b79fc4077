//! Where a flow goes on: a pure decision from what is durable.

use catchment_core::Position;

/// What a flow does first when it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// A staged batch was not published everywhere: publish it. It is never computed again.
    Publish(Position),
    /// A planned batch was not staged: compute it from exactly its plan.
    Stage(Position),
    /// All is published: plan this batch next.
    Plan(Position),
}

/// Decides from the position in the table, the newest plan and the newest staged record.
///
/// The table's position is the truth; plans and staged records at or before it are done.
#[must_use]
pub fn resume(published: Option<Position>, planned: Option<Position>, staged: Option<Position>) -> Resume {
    let open = |position: Position| published.is_none_or(|published| position > published);
    match (planned.filter(|at| open(*at)), staged.filter(|at| open(*at))) {
        (Some(plan), Some(staged)) if plan == staged => Resume::Publish(plan),
        (Some(plan), _) => Resume::Stage(plan),
        (None, _) => Resume::Plan(published.map_or(Position::new(0, 0), Position::next)),
    }
}

#[cfg(test)]
mod tests {
    use catchment_core::Position;

    use super::{Resume, resume};

    const fn at(number: u64) -> Position {
        Position { epoch: 0, number }
    }

    #[test]
    fn a_new_flow_plans_its_first_batch() {
        assert_eq!(resume(None, None, None), Resume::Plan(at(0)));
    }

    #[test]
    fn each_crash_goes_on_where_it_was() {
        assert_eq!(resume(None, Some(at(0)), None), Resume::Stage(at(0)));
        assert_eq!(resume(None, Some(at(0)), Some(at(0))), Resume::Publish(at(0)));
        assert_eq!(resume(Some(at(0)), Some(at(0)), Some(at(0))), Resume::Plan(at(1)));
        assert_eq!(resume(Some(at(0)), Some(at(1)), Some(at(0))), Resume::Stage(at(1)));
        assert_eq!(resume(Some(at(3)), Some(at(4)), Some(at(4))), Resume::Publish(at(4)));
    }

    #[test]
    fn a_new_epoch_comes_after_every_batch_of_the_old_one() {
        let reset = Position::new(1, 0);
        assert_eq!(resume(Some(at(7)), Some(reset), None), Resume::Stage(reset));
        assert_eq!(resume(Some(reset), Some(at(9)), Some(at(9))), Resume::Plan(reset.next()));
    }

    /// What a process does to the records of a flow, a crash after each step.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Step {
        Plan(Position),
        Compute(Position),
        Commit(Position),
        Reset,
    }

    proptest::proptest! {
        /// Whatever steps processes took before they died, every batch is computed once, published once, and
        /// in order; a full refresh at any moment begins a new epoch.
        #[test]
        fn any_crashes_lead_to_each_batch_once(moves in proptest::collection::vec(0_u8..8, 1..80)) {
            let (mut published, mut plans, mut staged) = (None, Vec::new(), Vec::new());
            let mut steps = Vec::new();
            for choice in moves {
                if choice == 7 && (published.is_some() || !plans.is_empty()) {
                    let newest = published.max(plans.last().copied()).map_or(0, |at: Position| at.epoch);
                    plans.push(Position::new(newest + 1, 0));
                    steps.push(Step::Reset);
                    continue;
                }
                match resume(published, plans.last().copied(), staged.last().copied()) {
                    Resume::Plan(at) => {
                        plans.push(at);
                        steps.push(Step::Plan(at));
                    }
                    Resume::Stage(at) => {
                        staged.push(at);
                        steps.push(Step::Compute(at));
                    }
                    Resume::Publish(at) => {
                        proptest::prop_assert!(published.is_none_or(|before| before < at));
                        published = Some(at);
                        steps.push(Step::Commit(at));
                    }
                }
                plans.sort();
            }
            for (index, step) in steps.iter().enumerate() {
                if let Step::Commit(at) = step {
                    let before = &steps[..index];
                    proptest::prop_assert!(before.contains(&Step::Compute(*at)));
                    let others = steps.iter().filter(|other| *other == step || **other == Step::Compute(*at)).count();
                    proptest::prop_assert_eq!(others, 2, "{:?}", steps);
                    // Nothing is skipped: the one before it in its epoch was committed.
                    if let Some(number) = at.number.checked_sub(1) {
                        proptest::prop_assert!(before.contains(&Step::Commit(Position::new(at.epoch, number))));
                    }
                }
            }
        }
    }
}
