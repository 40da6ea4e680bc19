"""One more reject code, `unsupported_kind`: sound captures of a kind that is not read. They were called corrupt before.

Revision: 0005, after 0004. Captures that were rejected before keep their codes.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

CODES = (
    "reject_code IN ('empty_file', 'not_an_image', 'truncated', 'corrupt', 'too_small', 'too_large', "
    "'unsupported_depth', 'unsupported_kind', 'multi_page', 'missing', 'changed', 'not_readable', 'outside_archive')"
)


def upgrade() -> None:
    with op.batch_alter_table("capture") as capture:
        capture.drop_constraint(op.f("ck_capture_reject_code"), type_="check")
        capture.create_check_constraint(op.f("ck_capture_reject_code"), CODES)


def downgrade() -> None:
    raise NotImplementedError("a downgrade could lose what was found since; restore a backup instead")
