"""One function per page: ``page(db, …) -> …Page``. None of them needs a web server; ``borg … --json`` uses them too."""

from explorer.pages.about import AboutPage, ApiPage, about, api
from explorer.pages.chat import ChatPage, chat
from explorer.pages.compare import ComparePage, compare
from explorer.pages.dag import DagPage, dag
from explorer.pages.failures import FailurePage, FailuresPage, failure, failures
from explorer.pages.frontier import FrontierPage, frontier
from explorer.pages.mesh import MeshPage, mesh
from explorer.pages.node import NodePage, node
from explorer.pages.overview import OverviewPage, overview
from explorer.pages.picture import PlotPage, picture
from explorer.pages.record import RecordPage, record
from explorer.pages.records import RecordsPage, records
from explorer.pages.reputation import ReputationPage, reputation
from explorer.pages.spec import ChapterPage, LicencesPage, SpecPage, chapter, licences, spec
from explorer.pages.state import StatePage, state
from explorer.pages.tasks import TasksPage, tasks
from explorer.pages.verify import VerifyPage, verify

__all__ = [
    "AboutPage",
    "ApiPage",
    "ChapterPage",
    "ChatPage",
    "ComparePage",
    "DagPage",
    "FailurePage",
    "FailuresPage",
    "FrontierPage",
    "LicencesPage",
    "MeshPage",
    "NodePage",
    "OverviewPage",
    "PlotPage",
    "RecordPage",
    "RecordsPage",
    "ReputationPage",
    "SpecPage",
    "StatePage",
    "TasksPage",
    "VerifyPage",
    "about",
    "api",
    "chapter",
    "chat",
    "compare",
    "dag",
    "failure",
    "failures",
    "frontier",
    "licences",
    "mesh",
    "node",
    "overview",
    "picture",
    "record",
    "records",
    "reputation",
    "spec",
    "state",
    "tasks",
    "verify",
]
