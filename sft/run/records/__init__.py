"""The types of the JSON files in a run directory, and of the manifests of checkpoints and of prepared data.

Each class is a file, or an object in one. Their JSON is read and written through typed_json.py only, so that each key
has its name in one place. A field that is added later gets a default, which older files then have. A field that changes
its meaning raises the record's `version`, and `upgraded` translates older files.
"""

from sft.run.records.capabilities import Capabilities
from sft.run.records.checkpoint import CheckpointFile, Manifest, Share
from sft.run.records.ends import Failure, RankEnd, RankExit
from sft.run.records.environment import Environment, Machine, NodeInfo, Start
from sft.run.records.evaluation import AnswerForm, AnswerLine, Evaluation, PartResults, Results, Sample
from sft.run.records.frozen import FrozenSettings
from sft.run.records.inputs import (
    Inputs,
    MixturePart,
    Prepared,
    PreparedData,
    RowCounts,
    Split,
    SplitFiles,
    TemplateFacts,
)
from sft.run.records.job import Job
from sft.run.records.looks import FoundRow, LookCounts, LookFound, Looks
from sft.run.records.plan import Budget, BudgetSetting, Cut, PlanSummary
from sft.run.records.speeds import LinkSpeeds
from sft.run.records.state import ENDED, Evaluating, Moment, State, StateChanges, Status
from sft.run.records.tried import Tried

__all__ = [
    "ENDED",
    "AnswerForm",
    "AnswerLine",
    "Budget",
    "BudgetSetting",
    "Capabilities",
    "CheckpointFile",
    "Cut",
    "Environment",
    "Evaluating",
    "Evaluation",
    "Failure",
    "FoundRow",
    "FrozenSettings",
    "Inputs",
    "Job",
    "LinkSpeeds",
    "LookCounts",
    "LookFound",
    "Looks",
    "Machine",
    "Manifest",
    "MixturePart",
    "Moment",
    "NodeInfo",
    "PartResults",
    "PlanSummary",
    "Prepared",
    "PreparedData",
    "RankEnd",
    "RankExit",
    "Results",
    "RowCounts",
    "Sample",
    "Share",
    "Split",
    "SplitFiles",
    "Start",
    "State",
    "StateChanges",
    "Status",
    "TemplateFacts",
    "Tried",
]
