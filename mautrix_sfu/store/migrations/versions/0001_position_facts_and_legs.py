"""Position, facts and legs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema to this revision."""
    op.create_table(
        "leg",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("device_id", sa.Text(), nullable=False),
        sa.Column("call_id", sa.Text(), nullable=False),
        sa.Column("conf_id", sa.Text(), nullable=False),
        sa.Column("room_id", sa.Text(), nullable=True),
        sa.Column("remote_session", sa.Text(), nullable=True),
        sa.Column("local_session", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "device_id", "call_id", "conf_id", name=op.f("pk_leg")),
        comment="The connections, whose peers are told after a restart",
    )
    op.create_table(
        "room_fact",
        sa.Column("room_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("state_key", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("room_id", "type", "state_key", name=op.f("pk_room_fact")),
        comment="The state events that the focus goes by",
    )
    op.create_table(
        "sync_position",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sync_position")),
        comment="How far the focus's device has read its to-device messages (`since` of /sync)",
    )


def downgrade() -> None:
    """Bring the schema back to the revision before."""
    op.drop_table("sync_position")
    op.drop_table("room_fact")
    op.drop_table("leg")
