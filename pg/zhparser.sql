-- Run once, when the image of pg/Dockerfile makes a new data folder.
CREATE EXTENSION IF NOT EXISTS zhparser;
