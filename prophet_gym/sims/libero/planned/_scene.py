"""What a script may know of a LIBERO scene: privileged, read only, with heights as in libero_object's scene."""

# MuJoCo is a compiled module without stubs.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from prophet_gym.sims.libero._hand import Levelled
from prophet_gym.sims.libero.planned._goals import Fact

# Of MuJoCo's enumerations of geoms and joints.
_PLANE, _FREE, _SLIDE = 0, 0, 2
_OWN = ("robot", "gripper", "mount")
"""Match the names of the robot's own bodies, which begin so."""


@dataclass(frozen=True)
class Boxes:
    """Collision geometry as oriented boxes: centres and half sizes in metres, and what rotates them into the world."""

    centre: Float[np.ndarray, "n 3"]
    rotation: Float[np.ndarray, "n 3 3"]
    half: Float[np.ndarray, "n 3"]

    @property
    def extent(self) -> Float[np.ndarray, "n 3"]:
        """Return the half sizes of the upright boxes around them."""
        return np.einsum("nij,nj->ni", np.abs(self.rotation), self.half)

    def span(self) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
        """Return the lowest and the highest coordinates of all boxes."""
        return (self.centre - self.extent).min(axis=0), (self.centre + self.extent).max(axis=0)

    def distance(self, points: Float[np.ndarray, "m 3"]) -> Float[np.ndarray, " m"]:
        """Return how far each point is from the nearest box; inside a box it is negative."""
        if not len(self.centre):
            return np.full(len(points), np.inf)
        local = np.einsum("nij,mni->mnj", self.rotation, points[:, None] - self.centre)
        over = np.abs(local) - self.half
        outside = np.linalg.norm(np.maximum(over, 0.0), axis=-1)
        return (outside + np.minimum(over.max(axis=-1), 0.0)).min(axis=1)

    def near(self, place: Float[np.ndarray, "3"], move: Float[np.ndarray, "3"]) -> "Boxes":
        """Return the boxes within 25 cm of a place, or of where `move` leads from it."""
        away = [np.abs(spot[:2] - self.centre[:, :2]) - self.extent[:, :2] for spot in (place, place + move)]
        kept = np.min([np.maximum(each, 0.0).max(axis=1) for each in away], axis=0) < 0.25
        return Boxes(self.centre[kept], self.rotation[kept], self.half[kept])

    def top_near(self, start: Float[np.ndarray, "2"], end: Float[np.ndarray, "2"], radius: float) -> float:
        """Return the height of the tallest box within `radius` of the segment, seen from above; 0 at least."""
        along = np.linspace(start, end, max(2, int(np.linalg.norm(end - start) / 0.02) + 1))
        away = np.abs(along[:, None] - self.centre[None, :, :2]) - self.extent[None, :, :2]
        near = (np.linalg.norm(np.maximum(away, 0.0), axis=-1) < radius).any(axis=0)
        return float(max((self.centre[:, 2] + self.extent[:, 2])[near], default=0.0))

    def rim(self) -> tuple[Float[np.ndarray, "3"], float, float]:
        """Return middle and radius of the ring of boxes that reach the top, and how much it widens with height."""
        upright = np.argmax(np.abs(self.rotation[:, 2]) * self.half, axis=1)
        each = np.arange(len(upright))
        up = self.rotation[each, :, upright] * self.half[each, upright][:, None]
        up = up * np.sign(up[:, 2:])
        ring = (self.centre + up)[:, 2] > (self.centre + up)[:, 2].max() - 0.01
        ends, up = (self.centre + up)[ring], up[ring]
        middle = ends.mean(axis=0)
        out = ends[:, :2] - middle[:2]
        radius = np.linalg.norm(out, axis=1)
        widening = np.einsum("ni,ni->n", out / radius[:, None], up[:, :2]) / up[:, 2]
        return middle, float(radius.mean()), float(np.median(widening))

    def overhead(self, point: Float[np.ndarray, "3"], radius: float) -> "Boxes":
        """Return the boxes that hang over a circle around a point, 6 cm or more above it."""
        away = np.abs(point[:2] - self.centre[:, :2]) - self.extent[:, :2]
        low = self.centre[:, 2] - self.extent[:, 2]
        over = (np.linalg.norm(np.maximum(away, 0.0), axis=1) < radius) & (low > point[2] + 0.06)
        return Boxes(self.centre[over], self.rotation[over], self.half[over])


class Scene(Levelled):
    """Read a simulator's objects, fixtures, regions and joints by LIBERO's names; write nothing into it."""

    def __init__(self, sim: Any):
        super().__init__(sim)
        self.sim, self._domain = sim, sim._env.env
        self.goal: tuple[Fact, ...] = tuple(tuple(fact) for fact in self._domain.parsed_problem["goal_state"])

    def holds(self, fact: Fact) -> bool:
        """Tell whether LIBERO's own predicate holds now."""
        return bool(self._domain._eval_predicate(list(fact)))

    def kind(self, name: str) -> str:
        """Return the category of an object or fixture, such as `moka_pot`."""
        return name.rsplit("_", 1)[0]

    def parent(self, region: str) -> str | None:
        """Return the object or fixture that a region belongs to; its own name for an object, None for the table's."""
        if region in self._domain.object_sites_dict:
            parent = self._domain.object_sites_dict[region].parent_name
            return parent if parent in self._domain.obj_body_id else None
        return region

    def joint_of(self, name: str) -> str | None:
        """Return the joint of a drawer's region or of a fixture, None if it has none."""
        joints = self._domain.get_object(name).joints or []
        moving = [joint for joint in joints if self.sim.model.joint(joint).type[0] != _FREE]
        return moving[0] if moving else None

    def slides(self, name: str) -> bool:
        """Tell whether `name` opens along the axis of its joint, as drawers do, and not about it."""
        return bool(self.sim.model.joint(self.joint_of(name)).type[0] == _SLIDE)

    def joint(self, name: str) -> tuple[float, Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
        """Return position (metres or radians), axis and a point of the axis of the joint of `name`."""
        joint = self.sim.model.joint(self.joint_of(name))
        axis, anchor = self.sim.data.xaxis[joint.id].copy(), self.sim.data.xanchor[joint.id] + self.shift
        return float(self.sim.data.qpos[joint.qposadr[0]]), axis, anchor

    def opening(self, name: str) -> float:
        """Return the sign of the motion that opens a drawer or door, along or about the axis of its joint."""
        fixture = self._domain.get_object(self.parent(name))
        return float(np.sign(np.mean(fixture.object_properties["articulation"]["default_open_ranges"])))

    def pose(self, name: str) -> tuple[Float[np.ndarray, "3"], Rotation]:
        """Return position and orientation of an object, fixture or region."""
        data = self.sim.data
        if name in self._domain.object_sites_dict:
            site = self.sim.model.site(name).id
            return data.site_xpos[site] + self.shift, Rotation.from_matrix(data.site_xmat[site].reshape(3, 3))
        body = self._domain.obj_body_id[name]
        return data.xpos[body] + self.shift, Rotation.from_quat(np.roll(data.xquat[body], -1))

    def half(self, region: str) -> Float[np.ndarray, "3"]:
        """Return the half sizes of a region along the world's axes."""
        size = np.asarray(self._domain.object_sites_dict[region].size, dtype=np.float64)
        return np.abs(self.pose(region)[1].as_matrix() @ size)

    def is_region(self, name: str) -> bool:
        """Tell whether a name is that of a region, not of an object."""
        return name in self._domain.object_sites_dict

    def movable(self) -> tuple[str, ...]:
        """Return the names of all objects that can be carried."""
        return tuple(self._domain.objects_dict)

    def boxes(self, *names: str) -> Boxes:
        """Return the collision geometry of some objects and fixtures."""
        return self._boxes(self._belongs(names))

    def others(self, *names: str) -> Boxes:
        """Return all collision geometry but that of the robot and of these."""
        model = self.sim.model
        own = np.array([model.body(body).name.startswith(_OWN) for body in range(model.nbody)])
        return self._boxes(~self._belongs(names) & ~own[model.geom_bodyid])

    def moving_boxes(self, name: str) -> Boxes:
        """Return the geometry that moves with the joint of `name`."""
        body = int(self.sim.model.joint(self.joint_of(name)).bodyid[0])
        return self._boxes(self._under({body}))

    def speed(self) -> float:
        """Return the speed of the fastest object, metres per second."""
        model, data = self.sim.model, self.sim.data
        joints = [model.joint(self._domain.objects_dict[name].joints[-1]) for name in self.movable()]
        return max(float(np.linalg.norm(data.qvel[joint.dofadr[0] : joint.dofadr[0] + 3])) for joint in joints)

    def _belongs(self, names: Collection[str]) -> np.ndarray:
        return self._under({self._domain.obj_body_id[name] for name in names})

    def _under(self, roots: Collection[int]) -> np.ndarray:
        """Return which geoms belong to bodies that hang on `roots`."""
        model = self.sim.model
        member = np.zeros(model.nbody, dtype=bool)
        for body in range(model.nbody):  # parents come first
            member[body] = body in roots or (body > 0 and member[model.body_parentid[body]])
        return member[model.geom_bodyid]

    def _boxes(self, wanted: np.ndarray) -> Boxes:
        model, data = self.sim.model, self.sim.data
        # Group 0 is what collides; planes have no box.
        each = np.flatnonzero(wanted & (model.geom_group == 0) & (model.geom_type != _PLANE))
        rotation = data.geom_xmat[each].reshape(-1, 3, 3)
        centre = data.geom_xpos[each] + np.einsum("nij,nj->ni", rotation, model.geom_aabb[each, :3]) + self.shift
        return Boxes(centre, rotation, model.geom_aabb[each, 3:].copy())
