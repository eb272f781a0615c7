"""What headgate has to know of the engine `toy`; imported when a job file is read, so it needs no Ray."""

from jobs.spec.engines import EngineTraits

TRAITS = EngineTraits("toy", lane="toy_engine.lane:ToyLane", runs="here", safe_kwargs=frozenset({"shout"}))
